module onelockhold

go 1.19
