//! Runs the golden scripts. Each script runs on two stores at once: on one every command is a batch of its own, on the
//! other all commands of a block are one chunk. After each block both must hold the same bytes.

use std::error::Error;

use quorate_state::auth::{
    self, AssignToken, Auth, AuthAction, Permission, PermissionKind, Permit, UserRecord, auth_state, permit,
    role, roles, users,
};
use quorate_state::{
    Actor, Alarm, AlarmKind, Applier, Body, Command, Compact, Cursor, Event, Fault, LeaseRemaining,
    PublishMember, Range, RangeReply, Rejection, Reply, Txn, TxnReply, alarms, compact_slice, compacted,
    event_with_prev, events, hash_kv, lease, lease_keys, leases, members, range, revision, txn_read,
};

use crate::memory::Memory;
use crate::words::{self, Words};
use crate::{oracle, print};

#[derive(Default)]
struct Script {
    store: Memory,
    chunked: Memory,
    chunk: Vec<(Command, Reply, Vec<Event>)>,
    /// Where physical compaction stands.
    cursor: Option<Cursor>,
    /// Who asks for the command being run.
    actor: Option<Actor>,
}

impl Script {
    fn apply(&mut self, body: Body) -> Result<Vec<String>, Box<dyn Error>> {
        self.apply_command(Command::new(body))
    }

    fn apply_command(&mut self, command: Command) -> Result<Vec<String>, Box<dyn Error>> {
        let command = Command { actor: self.actor.clone(), ..command };
        // As it travels: through the bytes of the log.
        let bytes = command.encode_to_bytes().map_err(|rejection| format!("not proposed: {rejection:?}"))?;
        let command = Command::decode_bytes(bytes)?;
        let mut applier = Applier::new(&self.store);
        let (reply, events) = applier.apply(&command)?;
        let batch = applier.into_batch();
        self.store.write(batch);
        let lines = print::reply(&reply, &events);
        self.chunk.push((command, reply, events));
        Ok(lines)
    }

    fn flush(&mut self) {
        let mut applier = Applier::new(&self.chunked);
        for (command, reply, events) in self.chunk.drain(..) {
            let again = applier.apply(&command).expect("it went well one by one");
            assert_eq!(again, (reply, events), "in a chunk: {command:?}");
        }
        let batch = applier.into_batch();
        self.chunked.write(batch);
        assert_eq!(self.store, self.chunked, "one by one, and as a chunk");
        oracle::check_leases(&self.store);
    }

    /// Physical compaction in slices of `max` versions, at most `slices` of them; the next call goes on where it stands.
    fn remove(&mut self, max: usize, slices: usize) -> String {
        self.flush();
        let mut calls = 0;
        while calls < slices {
            let (batch, next) = compact_slice(&self.store, self.cursor.take(), max).expect("readable");
            self.store.write(batch.clone());
            self.chunked.write(batch);
            calls += 1;
            self.cursor = next;
            if self.cursor.is_none() {
                break;
            }
        }
        let state = if self.cursor.is_some() { "not finished" } else { "finished" };
        // The progress mark is a pair too: count versions and events only.
        let left = |store: &Memory| store.pairs.keys().filter(|key| matches!(key[0], 3 | 4)).count() / 2;
        format!("{state} after {calls} slices, {} versions left", left(&self.store))
    }

    fn query(&mut self, name: &str, mut words: Words) -> Result<Vec<String>, Box<dyn Error>> {
        let store = &self.store;
        let refused = |rejection| vec![format!("refused: {rejection:?}")];
        Ok(match name {
            "auth" => {
                drop(words.rest());
                words.end()?;
                vec![print::auth_state(&auth_state(store)?)]
            }
            "user" | "role" => self.who(name, words)?,
            "get" => match self.get(&words::range(words)?)? {
                Ok(reply) => print::range(&reply),
                Err(rejection) => refused(rejection),
            },
            "events" => {
                let from = words.next_number("from")?;
                let max = words.named::<usize>("max")?;
                let prev_kv: bool = words.named("prev_kv")?;
                words.end()?;
                match events(store, from, if max == 0 { usize::MAX } else { max })? {
                    Ok(events) if events.is_empty() => vec!["nothing".to_owned()],
                    Ok(events) => events
                        .into_iter()
                        .map(|event| {
                            let event = if prev_kv { event_with_prev(store, event)? } else { event };
                            Ok(print::event(&event))
                        })
                        .collect::<Result<_, quorate_state::Fault>>()?,
                    Err(rejection) => refused(rejection),
                }
            }
            "hash" => {
                let at = words.named("rev")?;
                words.end()?;
                match hash_kv(store, at)? {
                    Ok(hash) => vec![format!(
                        "{:08x} at revision {}, compacted {}",
                        hash.hash, hash.hash_revision, hash.compact_revision
                    )],
                    Err(rejection) => refused(rejection),
                }
            }
            "leases" => {
                words.end()?;
                let mut lines = Vec::new();
                for record in leases(store)? {
                    assert_eq!(lease(store, record.id)?, Some(record));
                    let keys: Vec<String> =
                        lease_keys(store, record.id)?.iter().map(|key| print::text(key)).collect();
                    let remaining =
                        record.remaining_ms.map(|ms| format!(", {ms} ms remain (stamp {})", record.stamp));
                    let remaining = remaining.unwrap_or_default();
                    let line =
                        format!("{} for {} ms{remaining}: {}", record.id, record.ttl_ms, keys.join(" "));
                    lines.push(line.trim().to_owned());
                }
                if lines.is_empty() { vec!["none".to_owned()] } else { lines }
            }
            "alarms" => {
                words.end()?;
                let lines: Vec<String> = alarms(store)?
                    .iter()
                    .map(|(member, kind)| format!("member {member}: {kind:?}"))
                    .collect();
                if lines.is_empty() { vec!["none".to_owned()] } else { lines }
            }
            "members" => {
                words.end()?;
                let members = members(store)?;
                members
                    .iter()
                    .map(|member| format!("{} {} {}", member.id, member.name, member.client_urls.join(",")))
                    .collect()
            }
            "status" => {
                words.end()?;
                vec![format!("revision {}, compacted {}", revision(store)?, compacted(store)?)]
            }
            "layout" => {
                words.end()?;
                let pairs = store.pairs.iter();
                pairs.map(|(key, value)| format!("{} -> {}", print::text(key), print::text(value))).collect()
            }
            name => return Err(format!("{name} is no command").into()),
        })
    }

    fn permit(&self) -> Result<Result<Permit, Rejection>, Fault> {
        permit(&self.store, self.actor.as_ref())
    }

    fn get(&self, request: &Range) -> Result<Result<RangeReply, Rejection>, Fault> {
        match self.permit()?.and_then(|permit| permit.read(&request.key, &request.range_end)) {
            Ok(()) => range(&self.store, request),
            Err(rejection) => Ok(Err(rejection)),
        }
    }

    fn read_txn(&self, txn: &Txn) -> Result<Result<TxnReply, Rejection>, Fault> {
        let permitted = match self.permit()? {
            Ok(permit) => permit.txn(&self.store, txn)?,
            Err(rejection) => Err(rejection),
        };
        match permitted {
            Ok(()) => txn_read(&self.store, txn),
            Err(rejection) => Ok(Err(rejection)),
        }
    }

    /// What the store knows about users and roles.
    fn who(&self, name: &str, mut words: Words) -> Result<Vec<String>, Box<dyn Error>> {
        let verb = words.next("a verb")?;
        let whose = words.rest().pop();
        words.end()?;
        let store = &self.store;
        let user = |user: UserRecord| {
            let hash =
                if user.no_password { "no password" } else { std::str::from_utf8(&user.password_hash)? };
            Ok::<_, Box<dyn Error>>(
                format!("{} ({hash}): {}", user.name, user.roles.join(" ")).trim().to_owned(),
            )
        };
        let permission = |held: &Permission| {
            let kind = PermissionKind::try_from(held.kind).expect("only known ones are granted");
            format!("{kind:?} {} {}", print::text(&held.key), print::text(&held.range_end))
        };
        let lines = match (name, verb.as_str(), whose) {
            ("user", "list", None) => users(store)?.into_iter().map(user).collect::<Result<Vec<_>, _>>()?,
            ("role", "list", None) => roles(store)?.into_iter().map(|role| role.name).collect(),
            ("user", _, Some(whose)) => match self.permit()?.and_then(|permit| permit.see_user(&whose)) {
                Ok(()) => vec![auth::user(store, &whose)?.map_or(Ok("unknown".to_owned()), user)?],
                Err(rejection) => vec![format!("refused: {rejection:?}")],
            },
            ("role", _, Some(whose)) => match self.permit()?.and_then(|permit| permit.see_role(&whose)) {
                Ok(()) => match role(store, &whose)? {
                    Some(role) => role.permissions.iter().map(permission).collect(),
                    None => vec!["unknown".to_owned()],
                },
                Err(rejection) => vec![format!("refused: {rejection:?}")],
            },
            other => return Err(format!("{other:?} is not understood").into()),
        };
        Ok(if lines.is_empty() { vec!["none".to_owned()] } else { lines })
    }

    fn write(&mut self, name: &str, mut words: Words) -> Result<Option<Vec<String>>, Box<dyn Error>> {
        let body = match name {
            "put" => Body::Put(words::put(words)?),
            "del" => Body::DeleteRange(words::delete(words)?),
            "compact" => Body::Compact(Compact { revision: words.next_number("revision")?, physical: false }),
            "grant" => {
                return Ok(Some(self.apply_command(Command::lease_grant(
                    words.next_number("id")?,
                    words.next_number::<u64>("ttl in seconds")? * 1000,
                    words.named("stamp")?,
                ))?));
            }
            // checkpoint LEASE STAMP REMAINING_SECONDS …
            "checkpoint" => {
                let mut leases = Vec::new();
                while let Ok(id) = words.next_number("id") {
                    let stamp = words.next_number("stamp")?;
                    let remaining_ms = words.next_number::<u64>("remaining seconds")? * 1000;
                    leases.push(LeaseRemaining { id, stamp, remaining_ms });
                }
                return Ok(Some(self.apply_command(Command::lease_checkpoint(leases))?));
            }
            "revoke" => {
                return Ok(Some(self.apply_command(Command::lease_revoke(words.next_number("id")?))?));
            }
            "expire" => {
                let (id, stamp) = (words.next_number("id")?, words.next_number("stamp")?);
                return Ok(Some(self.apply_command(Command::lease_expire(id, stamp))?));
            }
            "alarm" => {
                let clear = match words.next("raise or clear")?.as_str() {
                    "raise" => false,
                    "clear" => true,
                    other => return Err(format!("{other} is neither raise nor clear").into()),
                };
                let kind = match words.next("kind")?.as_str() {
                    "any" => AlarmKind::None,
                    "nospace" => AlarmKind::NoSpace,
                    "corrupt" => AlarmKind::Corrupt,
                    other => return Err(format!("{other} is no alarm").into()),
                };
                Body::Alarm(Alarm { clear, member: words.next_number("member")?, kind: kind.into() })
            }
            "publish" => {
                let (member, name) = (words.next_number("id")?, words.next("name")?);
                Body::PublishMember(PublishMember { member, name, client_urls: words.rest() })
            }
            "auth" | "user" | "role" => {
                let Some(action) = words::auth(name, &mut words)? else { return Ok(None) };
                words.end()?;
                Body::Auth(Auth::new(action))
            }
            "token" => {
                let user = words.next("user")?;
                let auth_revision = match words.named("rev")? {
                    0 => auth_state(&self.store)?.revision,
                    revision => revision,
                };
                words.end()?;
                let token = "abcdefghijklmnop".to_owned();
                let assign = AssignToken { token, user, auth_revision };
                Body::Auth(Auth::new(AuthAction::AssignToken(assign)))
            }
            // A command as another build would write it.
            "format" => {
                let command = Command { format: words.next_number("format")?, ..Command::put("a", "1") };
                return Ok(Some(self.apply_command(command)?));
            }
            _ => return Ok(None),
        };
        Ok(Some(self.apply(body)?))
    }
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let revision = auth_state(&self.store)?.revision - u64::from(context.tags.contains("stale"));
        self.actor = context.prefix.as_deref().map(|user| match user {
            "nobody" => Actor::default(),
            user => Actor { user: user.to_owned(), auth_revision: revision },
        });
        let words = Words::of(command);
        let lines = if let Some(text) = command.name.strip_prefix("txn") {
            let txn = words::txn(text)?;
            if context.tags.contains("read") {
                assert!(txn.is_read_only(), "tagged as a read");
                let serializable = if txn.is_serializable() { "serializable" } else { "linearizable" };
                match self.read_txn(&txn)? {
                    Ok(reply) => [vec![serializable.to_owned()], print::txn(&reply)].concat(),
                    Err(rejection) => vec![format!("refused: {rejection:?}")],
                }
            } else {
                self.apply(Body::Txn(txn))?
            }
        } else if command.name == "remove" {
            let mut words = words;
            let (max, slices) = (words.named::<usize>("max")?, words.named::<usize>("slices")?);
            words.end()?;
            vec![self.remove(
                if max == 0 { usize::MAX } else { max },
                if slices == 0 { usize::MAX } else { slices },
            )]
        } else if command.name == "restore" {
            // A snapshot is every pair; restoring it into an empty store gives the same store.
            words.end()?;
            self.flush();
            let pairs: Vec<_> =
                quorate_state::View::scan(&self.store, b"", b"", quorate_state::Direction::Forward)
                    .collect::<Result<_, _>>()?;
            let mut restored = Memory::default();
            restored.pairs.extend(pairs);
            assert_eq!(restored, self.store);
            self.store = restored.clone();
            self.chunked = restored;
            // A cursor does not travel: the receiver begins a pass of its own.
            self.cursor = None;
            vec!["restored".to_owned()]
        } else {
            match self.write(&command.name, Words::of(command))? {
                Some(lines) => lines,
                None => self.query(&command.name, words)?,
            }
        };
        let mut output = lines.join("\n");
        output.push('\n');
        Ok(output)
    }

    fn end_block(&mut self, _block: &goldenscript::Block) -> Result<String, Box<dyn Error>> {
        self.flush();
        Ok(String::new())
    }
}

#[expect(clippy::print_stdout, reason = "captured by the test runner, shown for the script that fails")]
fn run_all(area: &str) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts").join(area);
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("the scripts")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", directory.display());
    for path in paths {
        println!("script {}", path.display());
        goldenscript::run(&mut Script::default(), &path).expect("the script runs");
    }
}

macro_rules! areas {
    ($($area:ident)*) => {
        // A module, because areas are called like the functions they test.
        mod area {
            $(#[test] fn $area() { super::run_all(stringify!($area)); })*
        }

        #[test]
        fn every_area_is_run() {
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
            let mut found: Vec<_> = std::fs::read_dir(root)
                .expect("the scripts")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
                .collect();
            found.sort();
            assert_eq!(found, [$(stringify!($area)),*]);
        }
    };
}

areas!(alarm auth compact delete fault hash history lease member put range snapshot txn);
