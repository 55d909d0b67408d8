//! The parts of `./verify` and of the torture in `./test`: `verify filter`,
//! `verify torture servers|dynamodb|fleets TIME DIRECTORY`,
//! `verify page DIRECTORY JUNIT PUBLISHED`.

use std::{env, error::Error, fs, path::Path, process::ExitCode};

use integration::verification::{Cases, Page, Round, Runs, read, torture};

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["filter"] => println!("{}", Cases::gather(Page::keys())?.filter()),
        ["torture", round, time, out] => {
            // Runs the program of the same build.
            let onelock = env::current_exe()?.with_file_name("onelock");
            let wrong = torture(&onelock, round.parse::<Round>()?, time, Path::new(out))?;
            wrong.iter().for_each(|what| eprintln!("{what}"));
            return Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        ["page", results, junit, published] => return page(Path::new(results), Path::new(junit), Path::new(published)),
        _ => {
            return Err("usage: verify filter | torture servers|dynamodb|fleets TIME DIRECTORY | \
                page DIRECTORY JUNIT PUBLISHED"
                .into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the page beside the reports, and publishes it if enough was checked.
fn page(reports: &Path, junit: &Path, published: &Path) -> Result<ExitCode, Box<dyn Error>> {
    let cases = Cases::gather(Page::keys())?;
    let page = Page { cases, results: read(reports)?, runs: Runs::parse(&fs::read_to_string(junit)?) };
    let wrong = page.wrong();
    if !wrong.is_empty() {
        return Err(wrong.join("\n").into());
    }
    let draft = reports.join("verification.md");
    fs::write(&draft, page.to_string())?;
    let few = page.too_few();
    if !few.is_empty() {
        eprintln!("nothing is wrong, but too little was checked to publish {}:\n{}", draft.display(), few.join("\n"));
        return Ok(ExitCode::FAILURE);
    }
    fs::copy(draft, published)?;
    Ok(ExitCode::SUCCESS)
}
