//! Limits of this process and this machine, which a failed connection must not blame on the store.

use std::error::Error as StdError;

use nix::errno::Errno;

use super::causes;

/// Returns what to do if `error`, or one of its sources, says that this process or this machine has
/// no more sockets. `None` for other errors.
///
/// Nothing was sent to the store then, and it may work. For errors of a connection only.
/// Libraries wrap the error of the system, so its text is searched.
///
/// ```
/// use std::io::Error;
///
/// use lock_core::backend::own_limit;
///
/// let too_many_open_files = Error::other(Error::from_raw_os_error(24));
/// assert!(own_limit(&too_many_open_files).is_some_and(|advice| advice.contains("ulimit -n")));
/// assert_eq!(own_limit(&Error::other("connection refused")), None);
/// ```
pub fn own_limit(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let text = causes(error, "");
    let advice = [
        (Errno::EMFILE, "this process may open no more files and sockets; raise the limit (ulimit -n)"),
        (Errno::ENFILE, "this machine may open no more files and sockets; raise the limit (sysctl fs.file-max)"),
        (
            Errno::EADDRNOTAVAIL,
            "this machine has no local address or port for the connection; name the server by its IPv4 address, \
             close some connections, or widen the range (sysctl net.ipv4.ip_local_port_range)",
        ),
    ];
    let found = advice.into_iter().find(|(errno, _)| text.contains(&format!("(os error {})", *errno as i32)));
    found.map(|(_, advice)| advice)
}
