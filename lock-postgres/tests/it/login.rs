//! Logins, databases, and certificates that are refused.

use lock_core::{Error, ErrorKind, backend::Backend};
use lock_postgres::{PostgresConfig, ServerConfig, SslMode};
use test_support::{pgbouncer::PgBouncer, postgres::PostgresServer, tls::Certificates};

use crate::fixture::{LONG, at, backend, create_table, granted, in_test_database, request, server, with_table};

async fn kind(server: ServerConfig) -> ErrorKind {
    let error = backend(PostgresConfig::new(server)).acquire(&request("job", LONG)).await.unwrap_err();
    println!("{error:?}");
    assert!(!error.is_ambiguous() && !format!("{error:?}").contains("s3cret"), "{error:?}");
    error.kind()
}

#[tokio::test]
async fn wrong_logins_are_refused_without_secrets() {
    let server = PostgresServer::start();
    server.sql("create role etl login password 'right'");
    std::fs::write(
        server.socket_directory().join("data/pg_hba.conf"),
        "host all onelock all trust\nhost all all all scram-sha-256\n",
    )
    .unwrap();
    server.sql("select pg_reload_conf()");
    create_table(&server);
    server.sql("grant all on onelock to etl");
    let at = || ServerConfig::new().host("127.0.0.1", server.port()).database("postgres");
    granted(&backend(PostgresConfig::new(at().user("etl").password("right"))), &request("a", LONG)).await;
    assert_eq!(kind(at().user("etl").password("s3cret")).await, ErrorKind::PermissionDenied);
    assert_eq!(kind(at().user("unknown").password("s3cret")).await, ErrorKind::PermissionDenied);
    assert_eq!(kind(at().user("etl")).await, ErrorKind::PermissionDenied);
    assert_eq!(kind(at().user("onelock").database("missing")).await, ErrorKind::Config);
}

#[tokio::test]
async fn each_sslmode_checks_what_it_says() {
    let certificates = Certificates::make();
    let server = PostgresServer::with_tls(&certificates);
    create_table(&server);
    let at = |host: &str, mode| in_test_database(ServerConfig::new().host(host, server.port()).ssl_mode(mode));
    let others = Certificates::make();
    for (host, mode, ca, works) in [
        ("localhost", SslMode::VerifyFull, Some(certificates.ca()), true),
        ("127.0.0.1", SslMode::VerifyFull, Some(certificates.ca()), false),
        ("127.0.0.1", SslMode::VerifyCa, Some(certificates.ca()), true),
        ("localhost", SslMode::VerifyCa, Some(others.ca()), false),
        ("localhost", SslMode::VerifyFull, Some(others.ca()), false),
        ("127.0.0.1", SslMode::Require, None, true),
        ("127.0.0.1", SslMode::Require, Some(others.ca()), false),
        ("127.0.0.1", SslMode::Prefer, Some(others.ca()), true),
        ("127.0.0.1", SslMode::Disable, None, true),
    ] {
        let config = at(host, mode);
        let config = ca.map_or(config.clone(), |ca| config.root_cert(ca));
        if works {
            let backend = backend(PostgresConfig::new(config));
            assert!(backend.acquire(&request("job", LONG)).await.is_ok(), "{host} {mode:?}");
        } else {
            assert_eq!(kind(config).await, ErrorKind::Config, "{host} {mode:?}");
        }
    }
    let plain = PostgresServer::start();
    let config = in_test_database(ServerConfig::new().host("127.0.0.1", plain.port()).ssl_mode(SslMode::Require));
    assert_eq!(kind(config).await, ErrorKind::Config, "a server without TLS");
}

#[tokio::test]
async fn a_unix_socket_works() {
    let server = PostgresServer::start();
    create_table(&server);
    let socket = server.socket_directory().display().to_string();
    let config = in_test_database(ServerConfig::new().host(socket, server.port()).ssl_mode(SslMode::VerifyFull));
    granted(&backend(PostgresConfig::new(config)), &request("job", LONG)).await;
}

/// Connects clients until one is refused, and returns its error.
async fn refusal(config: impl Fn() -> PostgresConfig) -> Error {
    let mut clients = Vec::new();
    loop {
        let client = backend(config());
        if let Err(error) = client.acquire(&request("job", LONG)).await {
            return error;
        }
        clients.push(client);
    }
}

#[tokio::test]
// verifies: throttled
async fn a_server_or_a_pooler_without_a_free_connection_throttles() {
    let few = with_table(PostgresServer::with_settings(&["max_connections=8"]));
    let (server, advice) = (server(), ["max_connections", "max_client_conn"]);
    let pooler = PgBouncer::for_clients(&server, 4);
    for (address, advice) in [few.addr(), pooler.addr()].into_iter().zip(advice) {
        let error = refusal(|| at(address)).await;
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Throttled, true), "{error:?}");
        assert!(!error.is_ambiguous() && error.to_string().contains(advice), "{error}");
    }
}
