//! The conformance cases: on a direct connection, with TLS, through PgBouncer, and on the rows of
//! ShedLock.

use std::sync::{Arc, OnceLock};

use lock_core::{
    LockName,
    backend::Backend,
    testing::{Subject, Tampering},
};
use lock_postgres::{PostgresConfig, Schema, ServerConfig, SslMode};
use test_support::{pgbouncer::PgBouncer, postgres::PostgresServer, tls::Certificates};

use crate::{
    fixture::{self, at, backend, in_test_database},
    shedlock,
};

static SERVER: OnceLock<PostgresServer> = OnceLock::new();

fn server() -> &'static PostgresServer {
    SERVER.get_or_init(fixture::server)
}

mod direct {
    use super::*;

    struct Direct;

    #[async_trait::async_trait]
    impl Subject for Direct {
        async fn client(&self) -> Arc<dyn Backend> {
            Arc::new(backend(at(server().addr())))
        }

        async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
            fixture::tamper(server(), what, name)
        }
    }

    lock_core::conformance! {
        #[tokio::test]
        Direct,
        except = [
        (fair, "waiters have no places in a queue"),
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
    }
}

mod through_pgbouncer {
    use super::*;

    static POOLER: OnceLock<PgBouncer> = OnceLock::new();

    struct Pooled;

    #[async_trait::async_trait]
    impl Subject for Pooled {
        async fn client(&self) -> Arc<dyn Backend> {
            let direct = server();
            let pooler = POOLER.get_or_init(|| PgBouncer::start(direct));
            let listen = in_test_database(ServerConfig::new().host("127.0.0.1", direct.port()));
            Arc::new(backend(at(pooler.addr()).listen(listen)))
        }

        async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
            fixture::tamper(server(), what, name)
        }
    }

    lock_core::conformance! {
        #[tokio::test]
        Pooled,
        except = [
        (fair, "waiters have no places in a queue"),
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
    }
}

mod with_tls {
    use super::*;

    static WITH_TLS: OnceLock<(Certificates, PostgresServer)> = OnceLock::new();

    struct Encrypted;

    fn encrypted() -> &'static (Certificates, PostgresServer) {
        WITH_TLS.get_or_init(|| {
            let certificates = Certificates::make();
            let server = PostgresServer::with_tls(&certificates);
            fixture::create_table(&server);
            (certificates, server)
        })
    }

    #[async_trait::async_trait]
    impl Subject for Encrypted {
        async fn client(&self) -> Arc<dyn Backend> {
            let (certificates, server) = encrypted();
            let with_tls = ServerConfig::new().host("localhost", server.port()).ssl_mode(SslMode::VerifyFull);
            Arc::new(backend(PostgresConfig::new(in_test_database(with_tls.root_cert(certificates.ca())))))
        }

        async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
            fixture::tamper(&encrypted().1, what, name)
        }
    }

    lock_core::conformance! {
        #[tokio::test]
        Encrypted,
        except = [
        (fair, "waiters have no places in a queue"),
        (an_open_descriptor_keeps_the_lock_held, "the lock does not live in a descriptor"),
    ]
    }
}

mod on_shedlock_rows {
    use super::*;

    static SERVER: OnceLock<PostgresServer> = OnceLock::new();

    struct ShedLock;

    fn server() -> &'static PostgresServer {
        SERVER.get_or_init(|| {
            let server = PostgresServer::start();
            server.sql(shedlock::CREATE);
            server
        })
    }

    #[async_trait::async_trait]
    impl Subject for ShedLock {
        async fn client(&self) -> Arc<dyn Backend> {
            Arc::new(backend(at(server().addr()).schema(Schema::ShedLock)))
        }

        fn longest_name(&self) -> usize {
            64
        }

        async fn tamper(&self, what: Tampering, name: &LockName) -> bool {
            let name = name.as_str();
            let until = "timezone('utc', now()) + interval '10 minutes'";
            server().sql(&match what {
                Tampering::DeleteRecord => format!("delete from shedlock where name = '{name}'"),
                Tampering::ReplaceRecord => {
                    format!("update shedlock set locked_by = 'host-1', lock_until = {until} where name = '{name}'")
                }
                _ => return false,
            });
            true
        }
    }

    lock_core::conformance! {
        #[tokio::test]
        ShedLock,
        except = [
        (acquire, "the rows have no token, and names of 64 bytes"),
        (renew, "locks cannot be broken"),
        (release, "locks cannot be broken, and do not live in a descriptor"),
        (modes, "the rows have one holder"),
        (hand_over, "the rows have no token"),
        (fair, "waiters have no places in a queue"),
        (operators, "ShedLock wakes no waiter, and locks cannot be broken"),
        (tamper, "the rows have no token, and every name is one of a lock"),
    ]
    }
}
