//! Passwords, by bcrypt: slow on purpose, so it runs on blocking threads, few at a time, with a line before them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Passwords that may wait for their turn. At the usual cost each takes some 50 ms of a core.
const WAITING: usize = 256;
/// What bcrypt takes in; the rest would not count.
const LONGEST: usize = 72;
/// etcd's default, and what it takes in place of a cost that bcrypt does not have.
pub(crate) const USUAL_COST: u32 = 10;

/// Why a password was not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchecked {
    TooLong,
    /// Too many wait.
    Busy,
    TimedOut,
}

pub(crate) struct Passwords {
    cost: u32,
    working: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Passwords {
    pub(crate) fn new(cost: u32) -> Passwords {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Passwords {
            cost: if (4..=31).contains(&cost) { cost } else { USUAL_COST },
            working: Arc::new(Semaphore::new((cores / 2).max(1))),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// In bcrypt's own text form.
    pub(crate) async fn hash(&self, password: String, deadline: Instant) -> Result<Bytes, Unchecked> {
        if password.len() > LONGEST {
            return Err(Unchecked::TooLong);
        }
        let cost = self.cost;
        let hash = self.compute(deadline, move || bcrypt::hash(password, cost)).await?;
        // The cost is in bounds and the length was looked at; what is left is a system without randomness.
        hash.map(Bytes::from).map_err(|_| Unchecked::TimedOut)
    }

    pub(crate) async fn verify(
        &self,
        password: String,
        hash: Bytes,
        deadline: Instant,
    ) -> Result<bool, Unchecked> {
        self.compute(deadline, move || {
            // What is no hash matches nothing.
            std::str::from_utf8(&hash)
                .is_ok_and(|hash| bcrypt::verify(password, hash).is_ok_and(|matches| matches))
        })
        .await
    }

    async fn compute<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unchecked> {
        let _place = self.waiting.try_acquire().map_err(|_| Unchecked::Busy)?;
        let turn = tokio::time::timeout_at(deadline, Arc::clone(&self.working).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Unchecked::TimedOut) };
        let work = tokio::task::spawn_blocking(move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _turn = turn;
            work()
        });
        match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(Unchecked::TimedOut),
        }
    }
}

/// Whether these are the bytes of a hash that a password can be held against.
pub(crate) fn is_hash(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<bcrypt::HashParts>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn what_was_hashed_is_verified() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("secret".to_owned(), soon()).await.unwrap();
        assert!(is_hash(&hash));
        assert!(passwords.verify("secret".to_owned(), hash.clone(), soon()).await.unwrap());
        assert!(!passwords.verify("Secret".to_owned(), hash, soon()).await.unwrap());
        assert!(!passwords.verify("secret".to_owned(), Bytes::new(), soon()).await.unwrap());
        let long = passwords.hash("x".repeat(LONGEST + 1), soon()).await;
        assert_eq!(long, Err(Unchecked::TooLong));
        assert!(passwords.hash("x".repeat(LONGEST), soon()).await.is_ok());
    }

    /// Made by Go's library, as etcd's are.
    #[tokio::test]
    async fn hashes_of_etcd_are_understood() {
        // "allmine", cost 10: from the test vectors of Go's x/crypto/bcrypt.
        let hash = Bytes::from_static(b"$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga");
        let passwords = Passwords::new(4);
        assert!(passwords.verify("allmine".to_owned(), hash, soon()).await.unwrap());
    }

    #[tokio::test]
    async fn nobody_waits_beyond_the_deadline() {
        let passwords = Passwords::new(4);
        let taken: Vec<_> = (0..passwords.working.available_permits())
            .map(|_| Arc::clone(&passwords.working).try_acquire_owned().unwrap())
            .collect();
        let short = Instant::now() + Duration::from_millis(20);
        assert_eq!(passwords.hash("secret".to_owned(), short).await, Err(Unchecked::TimedOut));
        drop(taken);
        assert!(passwords.hash("secret".to_owned(), soon()).await.is_ok());
    }
}
