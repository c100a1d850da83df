//! Which plain token belongs to whom, and until when. Pure: time comes in with each call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Tokens known at once. Beyond that the one that would end first makes room: its client asks for another.
const MOST: usize = 65_536;
/// Tokens below this number are not worth looking for ended ones.
const FEW: usize = 256;

/// One member's.
pub(crate) struct Tokens {
    ttl: Duration,
    /// By the token without its index.
    holders: HashMap<String, Holder>,
    /// Ended ones are looked for when there are this many.
    sweep_at: usize,
}

struct Holder {
    user: Arc<str>,
    until: Duration,
}

impl Tokens {
    pub(crate) fn new(ttl: Duration) -> Tokens {
        Tokens { ttl, holders: HashMap::new(), sweep_at: FEW }
    }

    pub(crate) fn assign(&mut self, now: Duration, token: &str, user: &str) {
        if self.holders.len() >= self.sweep_at {
            self.holders.retain(|_, holder| holder.until > now);
            self.sweep_at = (2 * self.holders.len()).clamp(FEW, MOST);
        }
        if self.holders.len() >= MOST {
            let first = self.holders.iter().min_by_key(|(_, holder)| holder.until);
            if let Some(first) = first.map(|(token, _)| token.clone()) {
                self.holders.remove(&first);
            }
        }
        self.holders.insert(token.to_owned(), Holder { user: user.into(), until: now + self.ttl });
    }

    /// Whose it is. Its time begins anew.
    pub(crate) fn find(&mut self, now: Duration, token: &str) -> Option<Arc<str>> {
        let holder = self.holders.get_mut(token)?;
        if holder.until <= now {
            self.holders.remove(token);
            return None;
        }
        holder.until = now + self.ttl;
        Some(Arc::clone(&holder.user))
    }

    /// All of one user.
    pub(crate) fn forget(&mut self, user: &str) {
        self.holders.retain(|_, holder| *holder.user != *user);
    }

    pub(crate) fn clear(&mut self) {
        self.holders.clear();
        self.sweep_at = FEW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn each_use_begins_the_time_anew() {
        let mut tokens = Tokens::new(s(10));
        tokens.assign(s(0), "token", "user");
        for now in [9, 18, 27] {
            assert_eq!(tokens.find(s(now), "token").as_deref(), Some("user"), "at {now}");
        }
        assert_eq!(tokens.find(s(37), "token"), None);
        assert_eq!(tokens.find(s(28), "token"), None, "what has ended does not come back");
    }

    #[test]
    fn a_users_tokens_go_together() {
        let mut tokens = Tokens::new(s(10));
        tokens.assign(s(0), "a1", "a");
        tokens.assign(s(0), "a2", "a");
        tokens.assign(s(0), "b1", "b");
        tokens.forget("a");
        assert_eq!(tokens.find(s(1), "a1").or(tokens.find(s(1), "a2")), None);
        assert!(tokens.find(s(1), "b1").is_some());
        tokens.clear();
        assert_eq!(tokens.find(s(1), "b1"), None);
    }

    #[test]
    fn ended_ones_make_room_and_the_number_is_bounded() {
        let mut tokens = Tokens::new(s(10));
        for n in 0..3 * FEW {
            tokens.assign(s(0), &n.to_string(), "user");
        }
        for n in 0..2 * FEW {
            tokens.assign(s(20), &format!("later {n}"), "user");
        }
        assert!(tokens.holders.len() < 3 * FEW, "{} are kept", tokens.holders.len());
        for n in 0..=MOST {
            tokens.assign(s(20 + n as u64 / 60_000), &format!("many {n}"), "user");
        }
        assert!(tokens.holders.len() <= MOST);
        assert!(tokens.find(s(21), &format!("many {MOST}")).is_some(), "the newest is there");
    }
}
