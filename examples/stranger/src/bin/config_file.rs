//! Chooses the store in the application's own configuration file, and overrides it by variables.

use onelock::config::Settings;

#[derive(serde::Deserialize)]
struct Application {
    lock: Settings,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file: Application = toml::from_str("[lock]\nurl = 'memory:'\nttl = '20s'\n")?;
    let locker = onelock::open(file.lock.overlay(Settings::from_env("APP_LOCK"))).await?;
    println!("ttl {:?}", locker.timing().ttl.unwrap());
    Ok(())
}
