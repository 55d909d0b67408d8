//! `onelock wait`

use std::time::{Duration, Instant};

use lock_core::{LockName, Locker};
use tokio::time::{sleep, timeout};

use crate::{
    args::WaitArgs,
    exit::{self, Exit, Failure},
    run::progress::{Progress, Talk},
    runtime::runtime,
    store::StoreLocation,
    target::Target,
};

/// The pauses between two questions grow from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Runs `onelock wait`: ends when the lock is free. It takes no lock, so another client may have it
/// a moment later.
pub(crate) fn wait(args: WaitArgs) -> Result<Exit, Failure> {
    let began = Instant::now();
    let Target { name, shown, store } = Target::new(args.name, args.store)?;
    let store = StoreLocation::choose(&store)?;
    let talk = match (args.quiet, args.verbose) {
        (true, _) => Talk::Quiet,
        (false, true) => Talk::Verbose,
        (false, false) => Talk::Usual,
    };
    let progress = Progress::new(talk, shown);
    runtime()?.block_on(async {
        store.warn_of_another_directory(Some(&name)).await?;
        let locker = store.open_to_ask().await?;
        let freed = progress.show_while(until_free(&locker, &name, &progress));
        let freed = match args.wait {
            Some(limit) => timeout(limit.saturating_sub(began.elapsed()).max(FIRST_PAUSE), freed).await,
            None => Ok(freed.await),
        };
        progress.clear();
        match freed {
            Ok(freed) => freed.map(|()| Exit::Code(0)),
            Err(_) => Ok(Exit::Code(exit::NOT_ACQUIRED)),
        }
    })
}

async fn until_free(locker: &Locker, name: &LockName, progress: &Progress) -> Result<(), Failure> {
    let mut pause = FIRST_PAUSE;
    while let Some(holder) = locker.admin().inspect(name.as_str()).await? {
        progress.note_answer();
        progress.note_holder(&holder);
        sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
    Ok(())
}
