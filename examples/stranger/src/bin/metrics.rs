//! Exports the metrics of locks; here to a recorder that prints them.

use metrics_util::debugging::DebuggingRecorder;

#[tokio::main]
async fn main() -> Result<(), onelock::Error> {
    let recorder = DebuggingRecorder::new();
    let metrics = recorder.snapshotter();
    recorder.install().unwrap();
    let locker = onelock::open("memory:").await?;
    locker.acquire("report").await?.release().await?;
    for (key, _, _, value) in metrics.snapshot().into_vec() {
        println!("{}: {value:?}", key.key());
    }
    Ok(())
}
