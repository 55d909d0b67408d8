//! A service with one leader: `leader LISTEN NAME`.
//!
//! Followers refuse requests. One of them takes over after the leader ends.

use std::{env, error::Error, time::Duration};

use onelock::{Guard, LeaderElection, Leadership};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().collect();
    let [_, listen, name] = args.as_slice() else { return Err("usage: leader LISTEN NAME".into()) };
    let locker = onelock::open(&env::var("ONELOCK_URL")?).await?;
    let mut election = LeaderElection::new(locker.lock(name));
    let listener = TcpListener::bind(listen).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    println!("a candidate for {name:?} on {}", locker.store());
    loop {
        tokio::select! {
            event = election.next() => match event? {
                Leadership::Elected(token) => println!("elected, token {}", token.ok_or("this store has no tokens")?),
                // There is nothing to stop: each answer below checks who leads. A program with long
                // work stops it here, before it calls `next()` again.
                Leadership::Lost(lost) => println!("stopped: {lost}"),
            },
            connection = listener.accept() => {
                let (stream, _) = connection?;
                // A slow or disconnected client must not delay the election.
                let _ = timeout(Duration::from_millis(500), answer(stream, &election)).await;
            }
            _ = terminated.recv() => break,
        }
    }
    println!("resigning: {:?}", election.resign().await?);
    Ok(())
}

/// The service itself. It checks that it leads, and then does what only the leader may do, without
/// an await in between.
async fn answer(mut stream: TcpStream, election: &LeaderElection) -> std::io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    let (status, body) = match election.leader().and_then(Guard::token) {
        Some(token) => ("200 OK", format!("served by the leader, token {token}\n")),
        None => ("503 Service Unavailable", "a follower\n".to_owned()),
    };
    let length = body.len();
    let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(reply.as_bytes()).await
}
