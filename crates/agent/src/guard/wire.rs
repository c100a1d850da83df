//! Orders and answers: fixed messages over a socket pair that keeps their borders (`SOCK_SEQPACKET`).
//!
//! ```text
//!   order    kind  1 armed, 2 disarmed,    seq      deadline (ns)   valid until (ns)
//!                  3 reach                          process id
//!   answer   kind  1 ready, 2 obeyed,      seq      argument        0
//!                  3 fenced, 4 reached
//!            └──────── 8 bytes ───────┘└── 8 ──┘└────── 8 ─────┘└────── 8 ─────┘      little-endian
//! ```
//!
//! Both ends are one program and one version (the agent starts the guard from its own executable), so there is no version
//! in them. What cannot be read is ignored: the order that is missing is sent again, or the guard is replaced.

use std::time::Duration;

/// Bytes of a message.
pub const BYTES: usize = 32;

/// Until when PostgreSQL may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It is stopped, or a standby.
    Disarmed,
    /// It may write until the deadline; both are times since boot.
    Armed {
        /// When to kill.
        deadline: Duration,
        /// When another node may be primary: for the record only.
        valid_until: Duration,
    },
}

/// What the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// An order and its number.
    Order(u64, Order),
    /// A question of the self-test: may you kill this process? Nothing happens to it.
    Reach(i32),
}

/// The watchdog device, as it stands after an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// None is used, or it does not count now.
    Idle,
    /// It counts.
    Active,
    /// It could not be used: the system's error number.
    Failed(i32),
}

/// What the guard says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It runs, in a session of its own, and has looked for PostgreSQL once; that took so long.
    Ready {
        /// One scan of the process table.
        scan: Duration,
    },
    /// The order of this number is in force, and how the watchdog device took it.
    Obeyed(u64, Device),
    /// The deadline passed, PostgreSQL is gone, the record is written.
    Fenced,
    /// The answer to [`Message::Reach`]: 0, or the system's error number.
    Reached(i32),
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn pack(words: [u64; 4]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn unpack(bytes: &[u8]) -> Option<[u64; 4]> {
    let mut words = [0; 4];
    if bytes.len() != BYTES {
        return None;
    }
    for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(part.try_into().ok()?);
    }
    Some(words)
}

impl Message {
    /// As bytes.
    #[must_use]
    pub fn pack(self) -> [u8; BYTES] {
        match self {
            Message::Order(seq, Order::Armed { deadline, valid_until }) => {
                pack([1, seq, nanos(deadline), nanos(valid_until)])
            }
            Message::Order(seq, Order::Disarmed) => pack([2, seq, 0, 0]),
            Message::Reach(pid) => pack([3, 0, u64::try_from(pid).unwrap_or(0), 0]),
        }
    }

    /// From bytes.
    #[must_use]
    pub fn unpack(bytes: &[u8]) -> Option<Message> {
        match unpack(bytes)? {
            [1, seq, deadline, valid_until] => {
                let (deadline, valid_until) =
                    (Duration::from_nanos(deadline), Duration::from_nanos(valid_until));
                Some(Message::Order(seq, Order::Armed { deadline, valid_until }))
            }
            [2, seq, _, _] => Some(Message::Order(seq, Order::Disarmed)),
            [3, _, pid, _] => Some(Message::Reach(i32::try_from(pid).ok()?)),
            _ => None,
        }
    }
}

fn errno(word: u64) -> i32 {
    i32::try_from(word).unwrap_or(i32::MAX)
}

impl Answer {
    /// As bytes.
    #[must_use]
    pub fn pack(self) -> [u8; BYTES] {
        let number = |errno: i32| u64::try_from(errno).unwrap_or(0);
        match self {
            Answer::Ready { scan } => pack([1, 0, nanos(scan), 0]),
            Answer::Obeyed(seq, Device::Idle) => pack([2, seq, 0, 0]),
            Answer::Obeyed(seq, Device::Active) => pack([2, seq, 1, 0]),
            Answer::Obeyed(seq, Device::Failed(errno)) => pack([2, seq, 2, number(errno)]),
            Answer::Fenced => pack([3, 0, 0, 0]),
            Answer::Reached(errno) => pack([4, 0, number(errno), 0]),
        }
    }

    /// From bytes.
    #[must_use]
    pub fn unpack(bytes: &[u8]) -> Option<Answer> {
        match unpack(bytes)? {
            [1, _, scan, _] => Some(Answer::Ready { scan: Duration::from_nanos(scan) }),
            [2, seq, 0, _] => Some(Answer::Obeyed(seq, Device::Idle)),
            [2, seq, 1, _] => Some(Answer::Obeyed(seq, Device::Active)),
            [2, seq, 2, number] => Some(Answer::Obeyed(seq, Device::Failed(errno(number)))),
            [3, ..] => Some(Answer::Fenced),
            [4, _, number, _] => Some(Answer::Reached(errno(number))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let armed =
            Order::Armed { deadline: Duration::from_millis(4_200), valid_until: Duration::from_nanos(7) };
        for message in
            [Message::Order(1, armed), Message::Order(u64::MAX, Order::Disarmed), Message::Reach(4711)]
        {
            assert_eq!(Message::unpack(&message.pack()), Some(message));
        }
        for answer in [
            Answer::Ready { scan: Duration::from_micros(300) },
            Answer::Obeyed(9, Device::Idle),
            Answer::Obeyed(9, Device::Active),
            Answer::Obeyed(9, Device::Failed(16)),
            Answer::Fenced,
            Answer::Reached(1),
        ] {
            assert_eq!(Answer::unpack(&answer.pack()), Some(answer));
        }
        assert_eq!(Message::unpack(&[1; BYTES - 1]), None);
        assert_eq!(Message::unpack(&pack([9, 0, 0, 0])), None);
    }
}
