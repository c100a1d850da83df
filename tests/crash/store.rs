//! A store of one or three members, each with a place of its own, and what they all hold.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::client::{Client, encoded, number};
use crate::member::{Member, SETTLE};

/// The members. Whoever has one ended unasked is told by the next [`Store::alive`].
pub(crate) struct Store {
    pub(crate) members: Vec<Member>,
    pub(crate) client: Client,
    initial: String,
}

/// What a member holds, as of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash {
    pub(crate) hash: u64,
    pub(crate) compacted: u64,
}

impl Store {
    /// One member per place, not started yet. Outputs go into `outputs`.
    pub(crate) fn new(places: &[&Path], outputs: &Path) -> Store {
        let hosts: Vec<u8> = (1..=3).collect();
        let net = quorate_loopback::addresses(&hosts[..places.len()], &[2379, 2380]).expect("free addresses");
        let members: Vec<Member> = places
            .iter()
            .zip(hosts)
            .map(|(place, host)| {
                let name = format!("m{host}");
                Member::new(&name, &format!("{net}{host}"), place, outputs.join(format!("{name}.log")))
            })
            .collect();
        let initial = members.iter().map(Member::initial).collect::<Vec<_>>().join(",");
        Store { members, client: Client::new(), initial }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// Starts those that do not run.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_under(&[])
    }

    /// Starts those that do not run, with something before their command lines.
    pub(crate) fn start_under(&mut self, before: &[&str]) -> Result<()> {
        let initial = self.initial.clone();
        self.members
            .iter_mut()
            .filter(|member| !member.runs())
            .try_for_each(|member| member.start(&initial, before))
    }

    /// Nobody has ended by itself.
    pub(crate) fn alive(&mut self) -> Result<()> {
        for member in &mut self.members {
            if let Some(status) = member.ended() {
                bail!("{} ended by itself with {status}: {}", member.name, member.last_words());
            }
        }
        Ok(())
    }

    /// Waits until every member that runs answers a linearizable read.
    pub(crate) async fn healthy(&mut self) -> Result<()> {
        let until = Instant::now() + SETTLE;
        for nth in 0..self.members.len() {
            if !self.members[nth].runs() {
                continue;
            }
            let endpoint = self.members[nth].client.clone();
            while let Err(error) =
                self.client.call(&endpoint, "kv/range", &json!({"key": encoded("x")})).await
            {
                self.alive()?;
                ensure!(Instant::now() < until, "not healthy in time: {error:#}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// The current revision, by a linearizable read at whoever answers.
    pub(crate) async fn revision(&mut self) -> Result<u64> {
        let answer = self.ask("kv/range", &json!({"key": encoded("x")})).await?;
        Ok(number(&answer["header"]["revision"]))
    }

    /// The first answer that any member gives.
    pub(crate) async fn ask(&mut self, method: &str, body: &Value) -> Result<Value> {
        let until = Instant::now() + SETTLE;
        let endpoints = self.endpoints();
        for endpoint in endpoints.iter().cycle() {
            match self.client.call(endpoint, method, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => ensure!(Instant::now() < until, "nobody answers: {error:#}"),
            }
            self.alive()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("a store without members")
    }

    /// Everybody compacts up to `revision`, sooner or later. Who is told twice has done it the first time.
    pub(crate) async fn compact(&mut self, revision: u64) -> Result<()> {
        let body = json!({"revision": revision.to_string()});
        let endpoints = self.endpoints();
        let mut refusals = Vec::new();
        for endpoint in &endpoints {
            match self.client.call(endpoint, "kv/compaction", &body).await {
                Ok(_) => return Ok(()),
                Err(error) if format!("{error:#}").contains("has been compacted") => return Ok(()),
                Err(error) => refusals.push(format!("{error:#}")),
            }
        }
        self.alive()?;
        // Nobody has to compact while an election is held: it is asked for again in the next round.
        println!("compaction put off: {}", refusals.join("; "));
        Ok(())
    }

    /// What member `nth` holds as of `revision`; None: it has not come so far yet.
    async fn hash_of(&self, nth: usize, revision: u64) -> Option<Hash> {
        let body = json!({"revision": revision.to_string()});
        let answer = self.client.call(&self.members[nth].client, "maintenance/hashkv", &body).await.ok()?;
        Some(Hash { hash: number(&answer["hash"]), compacted: number(&answer["compact_revision"]) })
    }

    /// All members hold the same as of now. Returns what.
    ///
    /// # Errors
    /// They do not, or one does not get there.
    pub(crate) async fn agree(&mut self) -> Result<Hash> {
        let revision = self.revision().await?;
        let until = Instant::now() + SETTLE;
        loop {
            let mut hashes = Vec::new();
            for nth in 0..self.members.len() {
                hashes.extend(self.hash_of(nth, revision).await);
            }
            // Whoever has compacted further has less to hash: comparable only when all have come equally far.
            let comparable = hashes.len() == self.members.len()
                && hashes.iter().all(|hash| hash.compacted == hashes[0].compacted);
            if comparable {
                ensure!(
                    hashes.iter().all(|hash| *hash == hashes[0]),
                    "members differ at revision {revision}: {hashes:?}"
                );
                return hashes.first().copied().context("a store without members");
            }
            self.alive()?;
            ensure!(Instant::now() < until, "revision {revision} is not everywhere: {hashes:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The number of the newest segment of any log, and how many snapshots there are.
    pub(crate) fn coverage(&self) -> Result<(u64, usize)> {
        let (mut segments, mut snapshots) = (0, 0);
        for member in &self.members {
            for entry in std::fs::read_dir(member.data.join("log"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let number =
                    name.strip_suffix(".log").and_then(|digits| u64::from_str_radix(digits, 16).ok());
                segments = segments.max(number.unwrap_or(0));
            }
            snapshots += std::fs::read_dir(member.data.join("snapshots"))?.count();
        }
        Ok((segments, snapshots))
    }

    /// SIGKILL to `victims`, all at once.
    pub(crate) fn kill(&mut self, victims: &[usize]) {
        for victim in victims {
            self.members[*victim].strike();
        }
        for victim in victims {
            self.members[*victim].bury();
        }
    }
}

/// Who is hit: one member or several, every choice as likely among those of its size.
pub(crate) fn victims(random: &mut fastrand::Rng, count: usize) -> Vec<usize> {
    random.choose_multiple(0..3, count)
}
