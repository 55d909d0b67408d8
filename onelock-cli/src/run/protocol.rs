//! The messages between the supervisor and the watchdog, and the socket that carries them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use lock_core::clock::ClockReading;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
    },
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A message from the supervisor to the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToWatchdog {
    /// The lock is held: start the command. Carries the lock's descriptors, if the lock lives
    /// in some.
    Start { token: Option<u64>, deadline: Option<ClockReading> },
    /// The lease was renewed.
    Deadline(ClockReading),
    /// Pass this signal on to the command.
    Signal(i32),
    /// The lock was lost: stop the command. `known` if the store said so: then another client may
    /// hold the lock already.
    Lost { known: bool },
    /// The end of the command was received: unlock, and leave processes that still run alone.
    Finish,
}

/// A message from the watchdog to the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchdogEvent {
    /// The command runs.
    Started,
    /// The command could not be started, because of this errno.
    NotStarted(i32),
    /// The command with this pid was stopped by this signal.
    Stopped { signal: i32, pid: i32 },
    /// The command ended with this wait status.
    Ended(i32),
    /// The lock was lost or given up, and the processes that worked under it are dead. What the
    /// watchdog had to unlock is unlocked.
    Killed,
    /// The lock had ended before the command could be started, or before the client could be told
    /// of the lock.
    TooLate,
}

const BYTES: usize = 32;
/// The descriptors of one message. The kernel closes those for which the receiver has no room. A
/// lock has one in each store of a migration, which may consist of migrations.
const MAX_DESCRIPTORS: usize = 16;
type Bytes = [u8; BYTES];

fn pack(tag: u64, a: u64, b: u64, c: u64) -> Bytes {
    let mut bytes = [0; BYTES];
    for (field, value) in bytes.chunks_exact_mut(8).zip([tag, a, b, c]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn unpack(bytes: &Bytes) -> [u64; 4] {
    let mut fields = [0; 4];
    for (field, value) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
        *field = u64::from_ne_bytes(value.try_into().expect("chunks_exact(8) yields 8 bytes"));
    }
    fields
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

fn moment(boot: u64, wall: u64) -> ClockReading {
    ClockReading { boot: Duration::from_nanos(boot), wall: Duration::from_nanos(wall) }
}

/// A message of fixed size.
pub(crate) trait Message: Copy {
    fn pack(self) -> Bytes;
    /// Returns `None` for bytes that this program never sends.
    fn unpack(bytes: &Bytes) -> Option<Self>;
}

impl Message for ToWatchdog {
    fn pack(self) -> Bytes {
        match self {
            // Zero means no token or no deadline: no token is zero, and no deadline is both at boot
            // and in 1970.
            Self::Start { token, deadline } => {
                let (boot, wall) = deadline.map_or((0, 0), |d| (nanos(d.boot), nanos(d.wall)));
                pack(1, token.unwrap_or(0), boot, wall)
            }
            Self::Deadline(at) => pack(2, 0, nanos(at.boot), nanos(at.wall)),
            Self::Signal(signal) => pack(3, signal as u64, 0, 0),
            Self::Lost { known } => pack(4, known.into(), 0, 0),
            Self::Finish => pack(5, 0, 0, 0),
        }
    }

    fn unpack(bytes: &Bytes) -> Option<Self> {
        Some(match unpack(bytes) {
            [1, token, boot, wall] => Self::Start {
                token: (token != 0).then_some(token),
                deadline: ((boot, wall) != (0, 0)).then(|| moment(boot, wall)),
            },
            [2, _, boot, wall] => Self::Deadline(moment(boot, wall)),
            [3, signal, ..] => Self::Signal(signal as i32),
            [4, known, ..] => Self::Lost { known: known != 0 },
            [5, ..] => Self::Finish,
            _ => return None,
        })
    }
}

impl Message for WatchdogEvent {
    fn pack(self) -> Bytes {
        match self {
            Self::Started => pack(1, 0, 0, 0),
            Self::NotStarted(errno) => pack(2, errno as u64, 0, 0),
            Self::Stopped { signal, pid } => pack(3, signal as u64, pid as u64, 0),
            Self::Ended(status) => pack(4, status as u64, 0, 0),
            Self::Killed => pack(5, 0, 0, 0),
            Self::TooLate => pack(6, 0, 0, 0),
        }
    }

    fn unpack(bytes: &Bytes) -> Option<Self> {
        Some(match unpack(bytes) {
            [1, ..] => Self::Started,
            [2, errno, ..] => Self::NotStarted(errno as i32),
            [3, signal, pid, _] => Self::Stopped { signal: signal as i32, pid: pid as i32 },
            [4, status, ..] => Self::Ended(status as i32),
            [5, ..] => Self::Killed,
            [6, ..] => Self::TooLate,
            _ => return None,
        })
    }
}

/// One end of the socket. The socket keeps message boundaries, and reports the end of the other
/// process, whatever ended it.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Creates two connected ends: a non-blocking one for the supervisor, and a blocking one for
    /// the watchdog.
    pub(crate) fn pair() -> nix::Result<(Self, Self)> {
        let (supervisor, watchdog) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        nix::fcntl::fcntl(&supervisor, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok((Self(supervisor), Self(watchdog)))
    }

    /// Sends `message`, with copies of `descriptors`.
    pub(crate) fn send(&self, message: impl Message, descriptors: &[OwnedFd]) -> nix::Result<()> {
        self.send_with(message, descriptors, MsgFlags::empty())
    }

    /// Sends `message` only if that does not block: the other process may be stopped, and may not
    /// have read many earlier messages.
    pub(crate) fn offer(&self, message: impl Message) -> nix::Result<()> {
        self.send_with(message, &[], MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, message: impl Message, descriptors: &[OwnedFd], flags: MsgFlags) -> nix::Result<()> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Errno::E2BIG);
        }
        let bytes = message.pack();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None).map(drop)
    }

    /// Receives the next message and its descriptors; `None` once the other process has ended.
    pub(crate) fn receive<M: Message>(&self) -> nix::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = [0; BYTES];
        let (length, descriptors) = match self.receive_bytes(&mut bytes) {
            // The other process ended without reading every message. The kernel reports this error
            // once, before the last messages of that process.
            Err(Errno::ECONNRESET) => self.receive_bytes(&mut bytes)?,
            received => received?,
        };
        if length == 0 {
            return Ok(None);
        }
        M::unpack(&bytes).map(|message| Some((message, descriptors))).ok_or(Errno::EBADMSG)
    }

    fn receive_bytes(&self, bytes: &mut Bytes) -> nix::Result<(usize, Vec<OwnedFd>)> {
        let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut buffers = [IoSliceMut::new(bytes)];
        let fd = self.0.as_raw_fd();
        let received = recvmsg::<()>(fd, &mut buffers, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        Ok((received.bytes, received_descriptors(received.cmsgs()?)))
    }
}

/// Waits for the next message of the watchdog; `None` once the watchdog has ended.
pub(crate) async fn next_event(channel: &AsyncFd<Channel>) -> io::Result<Option<WatchdogEvent>> {
    loop {
        let mut ready = channel.readable().await?;
        match ready.get_inner().receive() {
            Err(Errno::EAGAIN) => ready.clear_ready(),
            received => return Ok(received?.map(|(event, _)| event)),
        }
    }
}

fn received_descriptors(messages: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    messages
        .flat_map(|m| if let ControlMessageOwned::ScmRights(fds) = m { fds } else { Vec::new() })
        .map(sys::adopt)
        .collect()
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn messages_arrive_unchanged_and_the_end_is_reported() {
        let (supervisor, watchdog) = Channel::pair().unwrap();
        let at =
            ClockReading { boot: Duration::from_millis(12_345), wall: Duration::from_nanos(1_700_000_000_000_000_001) };
        let messages = [
            ToWatchdog::Start { token: None, deadline: None },
            ToWatchdog::Start { token: Some(1 << 52), deadline: Some(at) },
            ToWatchdog::Deadline(at),
            ToWatchdog::Signal(15),
            ToWatchdog::Lost { known: false },
            ToWatchdog::Lost { known: true },
            ToWatchdog::Finish,
        ];
        for message in messages {
            supervisor.send(message, &[]).unwrap();
            assert_eq!(watchdog.receive::<ToWatchdog>().unwrap().unwrap().0, message);
        }
        let events = [
            WatchdogEvent::Started,
            WatchdogEvent::NotStarted(2),
            WatchdogEvent::Stopped { signal: 20, pid: 4711 },
            WatchdogEvent::Ended(0x7f00),
            WatchdogEvent::Killed,
            WatchdogEvent::TooLate,
        ];
        for event in events {
            watchdog.send(event, &[]).unwrap();
            assert_eq!(supervisor.receive::<WatchdogEvent>().unwrap().unwrap().0, event);
        }
        assert_eq!(supervisor.receive::<WatchdogEvent>().unwrap_err(), Errno::EAGAIN);
        drop(supervisor);
        assert!(watchdog.receive::<ToWatchdog>().unwrap().is_none());
    }

    #[test]
    fn the_last_message_arrives_despite_unread_messages() {
        let (supervisor, watchdog) = Channel::pair().unwrap();
        supervisor.send(ToWatchdog::Signal(15), &[]).unwrap();
        watchdog.send(WatchdogEvent::Ended(0), &[]).unwrap();
        drop(watchdog);
        assert_eq!(supervisor.receive::<WatchdogEvent>().unwrap().unwrap().0, WatchdogEvent::Ended(0));
        assert!(supervisor.receive::<WatchdogEvent>().unwrap().is_none());
    }

    #[test]
    fn a_message_is_offered_without_a_wait() {
        let (_supervisor, watchdog) = Channel::pair().unwrap();
        let offers = iter::repeat_with(|| watchdog.offer(WatchdogEvent::Stopped { signal: 20, pid: 4711 }));
        assert_eq!(offers.take(1_000_000).find_map(Result::err), Some(Errno::EAGAIN));
    }

    #[test]
    fn all_descriptors_arrive_with_their_message() {
        let (supervisor, watchdog) = Channel::pair().unwrap();
        let files = ["stat", "status", "comm"]
            .map(|file| OwnedFd::from(std::fs::File::open(format!("/proc/self/{file}")).unwrap()));
        supervisor.send(ToWatchdog::Start { token: None, deadline: None }, &files).unwrap();
        let (_, copies) = watchdog.receive::<ToWatchdog>().unwrap().unwrap();
        let target = |file: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(copies.iter().map(target).collect::<Vec<_>>(), files.iter().map(target).collect::<Vec<_>>());
        let many: Vec<_> = (0..=MAX_DESCRIPTORS).map(|_| files[0].try_clone().unwrap()).collect();
        assert_eq!(supervisor.send(ToWatchdog::Finish, &many), Err(Errno::E2BIG), "none may be left out");
    }
}
