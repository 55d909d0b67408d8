//! Waits for replicas.

use std::time::Duration;

use lock_core::{Error, ErrorKind};
use redis::Value;

use crate::{connection::ConnectionSlot, deployment::millis, error::unexpected, script::Call};

/// Waits until replicas have confirmed a write.
///
/// `WAIT` blocks all later requests on its connection. Acquires and renewals therefore have
/// separate connections, so that an acquire that times out does not delay a renewal.
#[derive(Debug)]
pub(crate) struct Replication {
    pub(crate) number: u32,
    pub(crate) timeout: Duration,
    pub(crate) acquiring: ConnectionSlot,
    pub(crate) renewing: ConnectionSlot,
}

impl Replication {
    /// Runs `call` and waits for the replicas, in one round trip. Returns the reply, and whether
    /// enough replicas confirmed.
    pub(crate) async fn run(
        &self,
        connection: &ConnectionSlot,
        call: &Call<'_>,
    ) -> Result<(Value, Result<(), Error>), Error> {
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.number).arg(millis(self.timeout));
        let (answer, confirmed) = connection.run_then(call, &wait).await?;
        Ok((answer, confirmed.and_then(|confirmed| self.enough(&confirmed))))
    }

    fn enough(&self, confirmed: &Value) -> Result<(), Error> {
        let number = self.number;
        match confirmed {
            Value::Int(confirmed) if *confirmed >= i64::from(number) => Ok(()),
            Value::Int(confirmed) => {
                let advice = "check INFO replication, or lower the option replicas";
                let message = format!("{confirmed} of {number} replicas confirmed in time; {advice}");
                Err(Error::new(ErrorKind::Unavailable, message))
            }
            other => Err(unexpected("WAIT", other)),
        }
    }
}
