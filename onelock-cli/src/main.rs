//! The command `onelock`: runs a command under a lock ([`run`]), holds locks for a shell or a
//! program ([`hold`]), answers operators ([`operators`]), explains itself ([`manual`]),
//! and examines stores ([`doctor`], and `torture` with the cargo feature of that name).
//!
//! It has its own C `main`, because Rust's start-up code sets SIGPIPE to "ignore" before `main`.
//! The command under the lock must inherit the disposition that this process was started with.
#![cfg_attr(not(test), no_main)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the onelock command supervises its child with Linux system calls (subreaper, signalfd, timerfd); \
     on other systems use the library, the crate `onelock`"
);

mod args;
mod colours;
mod doctor;
mod exit;
mod hold;
mod init;
mod live;
mod log;
mod manual;
mod messages;
mod one_line;
mod operators;
mod output;
mod pager;
mod probes;
mod run;
mod runtime;
mod seconds;
mod store;
mod sys;
mod target;
mod terminal;
#[cfg(feature = "torture")]
mod torture;
mod warnings;
mod who;
mod writer;

use std::{
    ffi::OsString,
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
};

use lock_core::LockName;

use self::{
    args::{CliCommand, LockArgs},
    exit::{Exit, Failure},
    output::fail,
    run::inherited::InheritedState,
};

/// The entry point that the C library calls.
#[cfg(not(test))]
#[allow(unsafe_code, reason = "the C library finds main by its symbol")]
// SAFETY: there is one `main` in this program, and it has the C signature.
#[unsafe(no_mangle)]
extern "C" fn main(argc: std::ffi::c_int, argv: *const *const std::ffi::c_char) -> std::ffi::c_int {
    // The pointers are used here only, exactly as the C library passed them.
    start(sys::arguments(argc, argv))
}

/// Runs the whole program, and returns the exit code. A panic is one line and an exit code, because
/// it cannot pass a C `main`: it would end the process with SIGABRT before any lock is released.
#[cfg_attr(test, allow(dead_code, reason = "tests have a main of their own"))]
fn start(arguments: Vec<OsString>) -> i32 {
    panic::set_hook(Box::new(report_panic));
    catch_unwind(AssertUnwindSafe(|| run_program(arguments))).unwrap_or_else(|_| {
        // A thread may still have to write the message of the panic.
        output::flush_at_end();
        i32::from(exit::INTERNAL)
    })
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    if runtime::is_refusal(message) {
        return;
    }
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    fail(&format!("internal error{place}: {message}; please report it"), Some(exit::INTERNAL));
}

fn run_program(arguments: Vec<OsString>) -> i32 {
    // This comes first, because it records the state that the command must inherit.
    let inherited = InheritedState::capture().map_err(|e| Failure::os("reading the signal mask", e));
    let exit = inherited.and_then(|inherited| match manual::parse(arguments) {
        Ok(cli) => execute(cli.command, inherited),
        Err(error) => Ok(Exit::Code(explain(&error))),
    });
    if let Err(failure) = &exit {
        fail(&failure.to_string(), Some(failure.code));
    }
    output::flush_at_end();
    match exit {
        Ok(Exit::Code(code)) => i32::from(code),
        Ok(Exit::Signal(signal)) => {
            sys::deliver_to_self(signal);
            // Reached only if the signal is ignored.
            128 + signal
        }
        Err(failure) => i32::from(failure.code),
    }
}

fn execute(command: CliCommand, inherited: InheritedState) -> Result<Exit, Failure> {
    let detailed = match &command {
        CliCommand::Run(args) => choose_log(&args.lock, Some(&args.name)),
        CliCommand::Hold(args) => choose_log(&args.lock, args.name.as_ref()),
        _ => false,
    };
    // The others examine and disturb stores on purpose, and report what they find.
    if matches!(
        command,
        CliCommand::Run(_)
            | CliCommand::Hold(_)
            | CliCommand::Status(_)
            | CliCommand::List(_)
            | CliCommand::Watch(_)
            | CliCommand::Wait(_)
            | CliCommand::Break(_)
            | CliCommand::Init(_)
            | CliCommand::Sweep(_)
    ) {
        warnings::show(detailed);
    }
    match command {
        CliCommand::Run(args) => {
            inherited.block_signals().map_err(|e| Failure::os("blocking signals", e))?;
            run::run(args, inherited)
        }
        CliCommand::Hold(args) => {
            inherited.block_signals().map_err(|e| Failure::os("blocking signals", e))?;
            hold::hold(args, inherited)
        }
        CliCommand::Status(args) => operators::status(args),
        CliCommand::List(args) => operators::list(args),
        CliCommand::Watch(args) => operators::watch(args),
        CliCommand::Wait(args) => operators::wait(args),
        CliCommand::Break(args) => operators::break_lock(args),
        CliCommand::Init(args) => init::init(args),
        CliCommand::Sweep(args) => operators::sweep(args),
        CliCommand::Doctor(args) => doctor::doctor(args),
        CliCommand::DoctorSecondProcess(args) => doctor::run_second_process(args),
        CliCommand::Completions(args) => manual::completions(&args),
        CliCommand::Man(args) => manual::man(&args),
        #[cfg(feature = "torture")]
        CliCommand::Torture(args) => torture::torture(args),
        #[cfg(feature = "torture")]
        CliCommand::TortureWorker(args) => torture::run_worker(args),
        #[cfg(not(feature = "torture"))]
        CliCommand::Torture(_) => {
            Err(Failure::new(exit::CONFIG, "this build lacks the torture command; build with `--features torture`"))
        }
    }
}

/// Chooses the form of the messages, and returns whether the events of the library are shown.
fn choose_log(args: &LockArgs, name: Option<&LockName>) -> bool {
    log::choose(args.log_format, name.map(|name| name.as_str().to_owned()));
    args.verbose > 1
}

/// Prints the requested help, or what is wrong with the command line.
fn explain(error: &clap::Error) -> u8 {
    let _ = error.print();
    if error.use_stderr() { exit::USAGE } else { 0 }
}
