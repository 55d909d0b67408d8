//! The parts of a config string that other code than its store may read and replace.

use lock_core::{ConfigString, config::Host};

#[test]
fn a_proxied_store_differs_only_in_its_address() {
    let config = ConfigString::parse("redis://app:s3cret@db:6380/2?ttl=20s").unwrap();
    assert_eq!(config.hosts(), [Host { name: "db".into(), port: Some(6380) }]);
    let proxied = config.at_host(Host { name: "127.0.0.1".into(), port: Some(7) });
    assert_eq!(proxied.expose(), "redis://app:s3cret@127.0.0.1:7/2?ttl=20s");

    let config = ConfigString::parse("dynamodb://locks?endpoint=http://db:8000&region=x").unwrap();
    assert_eq!(config.option("endpoint"), Some("http://db:8000"));
    let proxied = config.without_option("endpoint").with_option("endpoint", "http://127.0.0.1:7").unwrap();
    assert_eq!(proxied.expose(), "dynamodb://locks?endpoint=http://127.0.0.1:7&region=x");
    assert_eq!(proxied.option("profile"), None);
}
