//! The Lua scripts: each operation is one atomic call.

use std::time::Duration;

use redis::{Arg, Cmd, ToRedisArgs};

use crate::record;

/// How long the server keeps the mark of an id that was released before its acquire arrived: longer
/// than a network holds back a packet.
pub(crate) const RELEASE_MARK_KEPT: Duration = Duration::from_secs(300);

/// The constants that the scripts share with this crate, as their first lines.
fn constants() -> String {
    let mark_kept = RELEASE_MARK_KEPT.as_millis();
    let released = record::RELEASED;
    // The queue of fair requests, for the scripts that know none; see fair/begin.lua.
    let no_queue = "local TURN, FIRST\n";
    format!("local RELEASE_MARK_KEPT_MS = '{mark_kept}'\nlocal RELEASED = '{released}'\n{no_queue}")
}

/// A script, known to the server by its digest.
#[derive(Debug)]
pub(crate) struct Script {
    code: String,
    digest: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = [$($file:literal),+],)*) => {
        /// All scripts.
        #[derive(Debug)]
        pub(crate) struct Scripts {
            $($(#[$doc])* pub(crate) $name: Script,)*
        }

        impl Scripts {
            pub(crate) fn new() -> Self {
                Self {
                    $($name: Script::new(&[$(include_str!(concat!("scripts/", $file))),+]),)*
                }
            }
        }
    };
}

scripts! {
    acquire = ["acquire/one.lua", "acquire.lua", "common.lua", "refuse.lua"],
    acquire_many = ["many.lua", "acquire/many.lua", "acquire.lua", "common.lua", "refuse.lua", "acquire/each.lua"],
    renew = ["renew.lua"],
    lost = ["common.lua", "joined/common.lua", "lost.lua"],
    restore = ["restore.lua"],
    release = ["release/one.lua", "release.lua", "common.lua", "released.lua"],
    release_many = ["many.lua", "release/many.lua", "release.lua", "common.lua", "released.lua", "release/each.lua"],
    /// Releases, and acquires for the next id.
    relay = [
        "many.lua", "relay/begin.lua", "release/one.lua", "release.lua", "common.lua", "released.lua", "relay/then.lua",
        "acquire/one.lua", "acquire.lua", "common.lua", "refuse.lua", "relay/end.lua"
    ],
    inspect = ["common.lua", "inspect.lua"],
    break_lock = ["trace.lua", "common.lua", "break.lua"],
    wait = ["common.lua", "wait.lua"],
    leave = ["common.lua", "leave.lua"],
    resignal = ["common.lua", "resignal.lua"],
    advance_token = ["advance_token.lua"],
    purge = ["purge.lua"],
    join = ["common.lua", "joined/common.lua", "joined/join.lua"],
    joined_renew = ["common.lua", "joined/common.lua", "joined/renew.lua"],
    joined_release = ["common.lua", "joined/common.lua", "joined/release.lua"],
    joined_break = ["trace.lua", "common.lua", "joined/common.lua", "joined/break.lua"],
    joined_restore = ["common.lua", "joined/common.lua", "joined/restore.lua"],
    joined_advance_token = ["common.lua", "joined/common.lua", "joined/advance_token.lua"],
    holders = ["common.lua", "joined/common.lua", "joined/holders.lua"],
    unmark = ["common.lua", "joined/common.lua", "fair/common.lua", "joined/unmark.lua"],
    fair_acquire = [
        "common.lua", "joined/common.lua", "fair/common.lua", "fair/begin.lua", "acquire/one.lua", "acquire.lua",
        "refuse.lua", "fair/end.lua"
    ],
    fair_join = [
        "common.lua", "joined/common.lua", "fair/common.lua", "fair/begin.lua", "joined/join.lua", "fair/end.lua"
    ],
}

impl Script {
    fn new(parts: &[&str]) -> Self {
        let code = constants() + include_str!("scripts/token_idle.lua") + &parts.concat();
        Self { digest: redis::Script::new(&code).get_hash().into(), code }
    }

    /// A call of this script with `keys`; arguments are added with [`Call::arg`].
    pub(crate) fn call<'a>(&'a self, keys: &'a [String]) -> Call<'a> {
        // Includes room for the arguments, because growing costs more than filling.
        let mut command = Cmd::with_capacity(keys.len() + 12, 512);
        command.arg("EVALSHA").arg(&self.digest).arg(keys.len()).arg(keys);
        Call { script: self, key: &keys[0], command }
    }

    /// A call with the keys of several calls of another script, and then with their arguments. Each
    /// has `keys` keys; the first key of all is `key`.
    pub(crate) fn call_for_all<'a>(&'a self, key: &'a str, keys: usize, calls: &[&Cmd]) -> Call<'a> {
        let mut command = Cmd::with_capacity(calls.len() * 8 + 3, calls.len() * 512);
        command.arg("EVALSHA").arg(&self.digest).arg(keys * calls.len());
        for part in [3..3 + keys, 3 + keys..usize::MAX] {
            for call in calls {
                copy(call.args_iter().take(part.end).skip(part.start), &mut command);
            }
        }
        Call { script: self, key, command }
    }
}

/// One call of a script, by its digest.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) script: &'a Script,
    /// The first key, in the slot of all of them.
    pub(crate) key: &'a str,
    pub(crate) command: Cmd,
}

impl Call<'_> {
    pub(crate) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.command.arg(arg);
        self
    }

    /// The same call with the script's text, which the server then keeps.
    pub(crate) fn with_text(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script.code);
        copy(self.command.args_iter().skip(2), &mut command);
        command
    }
}

fn copy<'a>(args: impl Iterator<Item = Arg<&'a [u8]>>, command: &mut Cmd) {
    for arg in args {
        if let Arg::Simple(bytes) = arg {
            command.arg(bytes);
        }
    }
}
