//! A cluster as its keys in the store say it is: `/service/<scope>/…` to a view, and the view to patronictl's rows.
//!
//! Nothing but the store is asked, as patronictl does it, so the answer is the same from every machine and also when
//! the members themselves are unreachable. What the columns mean is Patroni's (`patroni/utils.py`, cluster_as_json):
//! a standby's lag is measured against the last position that the primary has published.

use quorate_wire::etcdserverpb::RangeRequest;
use serde_json::{Map, Value, json};

use super::output::{self, Format};
use super::store::prefix_end;
use super::{Context, Failure, table};
use comfy_table::CellAlignment::{Left, Right};

/// One PostgreSQL cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// Its scope.
    pub scope: String,
    /// `/initialize`: the system identifier; empty while it is being initialised; None before.
    pub initialize: Option<String>,
    /// `/leader`: the holder of the primary lease.
    pub leader: Option<String>,
    /// `/members/*`, by name.
    pub members: Vec<Member>,
    /// `/config`.
    pub config: Value,
    /// `/sync`.
    pub sync: Value,
    /// `/history`.
    pub history: Value,
    /// `/failover`.
    pub failover: Value,
    /// `/status`: the last position that the primary has published.
    pub optime: u64,
    /// `/witness/*`: voters without PostgreSQL that are there, by name.
    pub witnesses: Vec<String>,
}

/// A member key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// Its JSON.
    pub data: Value,
}

/// What a member is in the cluster, in Patroni's public words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Leader,
    StandbyLeader,
    SyncStandby,
    QuorumStandby,
    Replica,
}

impl Role {
    /// As the table prints it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Role::Leader => "Leader",
            Role::StandbyLeader => "Standby Leader",
            Role::SyncStandby => "Sync Standby",
            Role::QuorumStandby => "Quorum Standby",
            Role::Replica => "Replica",
        }
    }

    fn is_leader(self) -> bool {
        match self {
            Role::Leader | Role::StandbyLeader => true,
            Role::SyncStandby | Role::QuorumStandby | Role::Replica => false,
        }
    }
}

impl Member {
    fn text(&self, key: &str) -> &str {
        self.data.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn position(&self, keys: &[&str]) -> Option<u64> {
        keys.iter().find_map(|key| self.data.get(key).and_then(Value::as_u64)).filter(|lsn| *lsn > 0)
    }

    /// Host and port of its PostgreSQL, from `conn_url`.
    #[must_use]
    pub fn address(&self) -> Option<(String, u16)> {
        let rest = self.text("conn_url").split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?;
        let authority = authority.rsplit('@').next()?;
        match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']')?;
                Some((host.to_owned(), port.strip_prefix(':').and_then(|p| p.parse().ok()).unwrap_or(5432)))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
                None => Some((authority.to_owned(), 5432)),
            },
        }
    }

    /// `host:port` of its REST API.
    #[must_use]
    pub fn api(&self) -> Option<String> {
        let rest = self.text("api_url").split_once("://")?.1;
        rest.split('/').next().filter(|authority| !authority.is_empty()).map(str::to_owned)
    }

    /// Whether it may become the primary.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        let tag = |name: &str| self.data.get("tags").and_then(|tags| tags.get(name));
        !tag("nofailover").and_then(Value::as_bool).unwrap_or(false)
            && tag("failover_priority").and_then(Value::as_i64).is_none_or(|priority| priority > 0)
    }
}

/// Reads one cluster.
///
/// # Errors
/// The store did not answer, or the scope is not known and there is not exactly one.
pub async fn read(context: &Context, scope: Option<&str>) -> Result<Cluster, Failure> {
    let scope = scope_of(context, scope).await?;
    let prefix = format!("{}{scope}/", context.namespace).into_bytes();
    let request = RangeRequest {
        range_end: prefix_end(&prefix).into(),
        key: prefix.clone().into(),
        ..RangeRequest::default()
    };
    let response = context.store.range(request).await?;
    let keys = response.kvs.iter().filter_map(|kv| {
        let name = std::str::from_utf8(kv.key.get(prefix.len()..)?).ok()?;
        Some((name, &kv.value[..]))
    });
    Ok(from_keys(&scope, keys))
}

/// The scope that is meant.
///
/// # Errors
/// None is named and there is not exactly one, or the store did not answer.
pub async fn scope_of(context: &Context, scope: Option<&str>) -> Result<String, Failure> {
    match scope.map(str::to_owned).or_else(|| context.scope.clone()) {
        Some(scope) => Ok(scope),
        None => only_scope(context).await,
    }
}

async fn only_scope(context: &Context) -> Result<String, Failure> {
    let prefix = context.namespace.clone().into_bytes();
    let request = RangeRequest {
        range_end: prefix_end(&prefix).into(),
        key: prefix.clone().into(),
        keys_only: true,
        ..RangeRequest::default()
    };
    let mut scopes: Vec<String> = Vec::new();
    for kv in context.store.range(request).await?.kvs {
        let rest = kv.key.get(prefix.len()..).unwrap_or_default();
        let scope = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
        let scope = String::from_utf8_lossy(scope).into_owned();
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    match scopes.as_slice() {
        [scope] => Ok(scope.clone()),
        [] => Err(Failure::new(format!("there is no cluster under {} in the store", context.namespace))),
        _ => Err(Failure::new(format!(
            "the store holds several clusters ({}): name one with --scope or -c FILE",
            scopes.join(", ")
        ))),
    }
}

/// Builds the view from keys (without the prefix) and values.
#[must_use]
pub fn from_keys<'k>(scope: &str, keys: impl Iterator<Item = (&'k str, &'k [u8])>) -> Cluster {
    let mut cluster = Cluster { scope: scope.to_owned(), ..Cluster::default() };
    for (key, value) in keys {
        let text = || String::from_utf8_lossy(value).into_owned();
        let parsed = || serde_json::from_slice(value).unwrap_or(Value::Null);
        match key {
            "initialize" => cluster.initialize = Some(text()),
            "leader" => cluster.leader = Some(text()),
            "config" => cluster.config = parsed(),
            "sync" => cluster.sync = parsed(),
            "history" => cluster.history = parsed(),
            "failover" => cluster.failover = parsed(),
            "status" => {
                cluster.optime = parsed().get("optime").and_then(Value::as_u64).unwrap_or(cluster.optime);
            }
            _ => {
                if let Some(name) = key.strip_prefix("members/") {
                    cluster.members.push(Member { name: name.to_owned(), data: parsed() });
                } else if let Some(name) = key.strip_prefix("witness/") {
                    cluster.witnesses.push(name.to_owned());
                }
            }
        }
    }
    cluster.members.sort_by(|left, right| left.name.cmp(&right.name));
    cluster
}

impl Cluster {
    /// The members' REST APIs, the primary's first.
    #[must_use]
    pub fn apis(&self) -> Vec<(String, String)> {
        let leads = |member: &&Member| self.leader.as_deref() == Some(member.name.as_str());
        let (leader, others): (Vec<&Member>, Vec<&Member>) = self.members.iter().partition(leads);
        let api = |member: &Member| Some((member.name.clone(), member.api()?));
        leader.into_iter().chain(others).filter_map(api).collect()
    }

    /// The member that holds the primary lease.
    #[must_use]
    pub fn leader_member(&self) -> Option<&Member> {
        let leader = self.leader.as_deref()?;
        self.members.iter().find(|member| member.name == leader)
    }

    /// A member by its name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// What a member is.
    #[must_use]
    pub fn role(&self, member: &Member) -> Role {
        if self.leader.as_deref() == Some(member.name.as_str()) {
            let standby = self.config.get("standby_cluster").is_some_and(|section| !section.is_null());
            return if standby { Role::StandbyLeader } else { Role::Leader };
        }
        let standbys = self.sync.get("sync_standby").and_then(Value::as_str).unwrap_or_default();
        let listed = standbys.split(',').any(|name| name.trim().eq_ignore_ascii_case(&member.name));
        if !listed {
            Role::Replica
        } else if self.config.get("synchronous_mode").and_then(Value::as_str) == Some("quorum") {
            Role::QuorumStandby
        } else {
            Role::SyncStandby
        }
    }

    /// Whether automatic actions are suspended.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.config.get("pause").and_then(Value::as_bool).unwrap_or(false)
    }

    fn lsn(&self) -> u64 {
        let leader = self.leader_member().and_then(|leader| leader.position(&["xlog_location"]));
        self.optime.max(leader.unwrap_or(0))
    }

    /// One object per member, in Patroni's columns; what is unknown is left out.
    #[must_use]
    pub fn rows(&self) -> Vec<Map<String, Value>> {
        let addresses: Vec<_> = self.members.iter().filter_map(Member::address).collect();
        // The port is only worth reading where it tells members apart or is not PostgreSQL's own.
        let mut hosts: Vec<&str> = addresses.iter().map(|(host, _)| host.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let with_port = hosts.len() < addresses.len() || addresses.iter().any(|(_, port)| *port != 5432);
        self.members.iter().map(|member| self.row(member, with_port)).collect()
    }

    fn row(&self, member: &Member, with_port: bool) -> Map<String, Value> {
        let role = self.role(member);
        let mut row = Map::new();
        row.insert("Cluster".into(), self.scope.clone().into());
        row.insert("Member".into(), member.name.clone().into());
        if let Some((host, port)) = member.address() {
            row.insert("Host".into(), if with_port { format!("{host}:{port}") } else { host }.into());
        }
        row.insert("Role".into(), role.title().into());
        let replication = member.text("replication_state");
        let state =
            if role.is_leader() || replication.is_empty() { member.text("state") } else { replication };
        row.insert("State".into(), state.into());
        if let Some(timeline) = member.data.get("timeline").filter(|timeline| timeline.is_number()) {
            row.insert("TL".into(), timeline.clone());
        }
        if !role.is_leader() {
            let positions = [
                ("Receive", member.position(&["receive_lsn", "xlog_location"])),
                ("Replay", member.position(&["replay_lsn", "xlog_location"])),
            ];
            for (what, position) in positions {
                match position {
                    None => {
                        row.insert(format!("{what} LSN"), "unknown".into());
                    }
                    Some(lsn) => {
                        row.insert(format!("{what} LSN"), format_lsn(lsn).into());
                        row.insert(format!("{what} Lag"), megabytes(self.lsn().saturating_sub(lsn)).into());
                    }
                }
            }
        }
        if member.data.get("pending_restart").and_then(Value::as_bool).unwrap_or(false) {
            row.insert("Pending restart".into(), "*".into());
        }
        if let Some(reasons) = member.data.get("pending_restart_reason").and_then(Value::as_object) {
            let reason = |(name, change): (&String, &Value)| {
                let side = |key: &str| match change.get(key) {
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                    None => String::new(),
                };
                format!("{name}: {}->{}", side("old_value"), side("new_value"))
            };
            let text: Vec<String> = reasons.iter().map(reason).collect();
            row.insert("Pending restart reason".into(), text.join("\n").into());
        }
        if let Some(schedule) = member.data.pointer("/scheduled_restart/schedule").and_then(Value::as_str) {
            row.insert("Scheduled restart".into(), schedule.into());
        }
        if let Some(tags) = member.data.get("tags").and_then(Value::as_object).filter(|tags| !tags.is_empty())
        {
            row.insert("Tags".into(), Value::Object(tags.clone()));
        }
        row
    }

    /// The order and indentation of `topology`: who streams from whom, the leader at the root.
    #[must_use]
    pub fn tree(&self) -> Vec<(usize, String)> {
        let leader = self.leader_member().map(|leader| leader.name.clone());
        let source = |member: &Member| {
            let wanted = member.data.pointer("/tags/replicatefrom").and_then(Value::as_str);
            wanted
                .filter(|name| self.member(name).is_some() && *name != member.name)
                .map(str::to_owned)
                .or_else(|| leader.clone())
                .filter(|_| Some(&member.name) != leader.as_ref())
        };
        let mut order = Vec::new();
        let mut roots: Vec<&Member> = self.members.iter().filter(|member| source(member).is_none()).collect();
        roots.reverse();
        let mut stack: Vec<(usize, &Member)> = roots.into_iter().map(|member| (0, member)).collect();
        while let Some((depth, member)) = stack.pop() {
            order.push((depth, member.name.clone()));
            let children: Vec<&Member> =
                self.members.iter().filter(|child| source(child).as_deref() == Some(&member.name)).collect();
            stack.extend(children.into_iter().rev().map(|child| (depth + 1, child)));
        }
        // Members that stream from one another in a circle hang from nothing; they are members all the same.
        for member in &self.members {
            if !order.iter().any(|(_, name)| *name == member.name) {
                order.push((0, member.name.clone()));
            }
        }
        order
    }
}

/// `0/4000060`.
#[must_use]
pub fn format_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

/// Patroni's unit of lag.
fn megabytes(bytes: u64) -> u64 {
    const MB: u64 = 1024 * 1024;
    // Python's round(): half goes to the even neighbour.
    let (whole, rest) = (bytes / MB, bytes % MB);
    match rest.cmp(&(MB / 2)) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + whole % 2,
    }
}

/// What every table has; the others appear when somebody has something in them, or with `-e`.
const COLUMNS: [&str; 10] = [
    "Cluster",
    "Member",
    "Host",
    "Role",
    "State",
    "TL",
    "Receive LSN",
    "Receive Lag",
    "Replay LSN",
    "Replay Lag",
];
const EXTENDED: [&str; 4] = ["Pending restart", "Pending restart reason", "Scheduled restart", "Tags"];

/// How `list` and `topology` show a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// See [`Format`].
    pub format: Format,
    /// Every column.
    pub extended: bool,
    /// As a tree.
    pub topology: bool,
}

/// The cluster as patronictl prints it.
#[must_use]
pub fn render(cluster: &Cluster, look: Look) -> String {
    let mut rows = cluster.rows();
    if look.topology {
        let tree = cluster.tree();
        let place = |row: &Map<String, Value>| {
            tree.iter()
                .position(|(_, name)| Some(name.as_str()) == row["Member"].as_str())
                .unwrap_or(tree.len())
        };
        rows.sort_by_key(place);
        for (row, (depth, name)) in rows.iter_mut().zip(&tree) {
            if *depth > 0 {
                row.insert("Member".into(), format!("{}+ {name}", "  ".repeat(depth - 1)).into());
            }
        }
    }
    if look.format == Format::Json || look.format == Format::Yaml {
        let value: Value = rows.into_iter().map(Value::Object).collect();
        return if look.format == Format::Json { output::python_json(&value) } else { output::yaml(&value) };
    }
    let mut columns: Vec<&str> = COLUMNS.to_vec();
    columns.extend(
        EXTENDED.iter().filter(|column| look.extended || rows.iter().any(|row| row.contains_key(**column))),
    );
    let pretty = look.format == Format::Pretty;
    let cell = |row: &Map<String, Value>, column: &str| match row.get(column) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(tags)) => {
            let one = |(name, value): (&String, &Value)| match value {
                Value::String(text) => format!("{name}: {text}"),
                other => format!("{name}: {other}"),
            };
            let tags: Vec<String> = tags.iter().map(one).collect();
            if pretty { tags.join("\n") } else { format!("{{{}}}", tags.join(", ")) }
        }
        Some(other) => other.to_string(),
    };
    if !pretty {
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
        return table::tsv(&columns, &cells);
    }
    // The cluster is named in the border.
    let columns = &columns[1..];
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    let headings: Vec<_> = columns
        .iter()
        .map(|column| match *column {
            "Receive Lag" | "Replay Lag" => ("Lag", Right),
            "TL" | "Receive LSN" | "Replay LSN" => (*column, Right),
            other => (other, Left),
        })
        .collect();
    let initialize = match cluster.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(identifier) => identifier,
    };
    let title = format!("Cluster: {} ({initialize})", cluster.scope);
    let mut text = table::patronictl(Some(&title), &headings, &cells);
    if cluster.is_paused() {
        text.push_str("\n Maintenance mode: on");
    }
    if !cluster.witnesses.is_empty() {
        text.push_str(&format!("\n Witness (votes, runs no PostgreSQL): {}", cluster.witnesses.join(", ")));
    }
    if let Some(at) = cluster.failover.get("scheduled_at").and_then(Value::as_str) {
        text.push_str(&format!("\n Switchover scheduled at: {at}"));
        for (key, name) in [("leader", "from"), ("member", "to")] {
            if let Some(member) = cluster.failover.get(key).and_then(Value::as_str) {
                text.push_str(&format!("\n                    {name:>4}: {member}"));
            }
        }
    }
    text
}

/// The names of members that a switchover can go to.
#[must_use]
pub fn candidates(cluster: &Cluster, leader: Option<&str>) -> Vec<String> {
    let eligible = |member: &&Member| Some(member.name.as_str()) != leader && member.may_lead();
    cluster.members.iter().filter(eligible).map(|member| member.name.clone()).collect()
}

/// A small cluster for the tests of several verbs.
#[must_use]
#[doc(hidden)]
pub fn example() -> Cluster {
    let member = |port: u16, role: &str, more: Value| {
        let mut data = json!({
            "conn_url": format!("postgres://127.0.0.1:{port}/postgres"),
            "api_url": format!("http://127.0.0.1:{}/patroni", port + 2576),
            "state": "running", "role": role, "version": "4.1.5", "xlog_location": 67_108_960_u64, "timeline": 1,
        });
        if let (Some(data), Some(more)) = (data.as_object_mut(), more.as_object()) {
            data.extend(more.clone());
        }
        data.to_string()
    };
    let streaming = json!({"replication_state": "streaming"});
    let keys = [
        ("initialize", "7710395948784291904".to_owned()),
        ("leader", "node1".to_owned()),
        ("members/node3", member(5434, "replica", streaming.clone())),
        ("members/node2", member(5433, "replica", streaming)),
        ("members/node1", member(5432, "primary", json!({}))),
        ("status", json!({"optime": 67_108_960_u64}).to_string()),
    ];
    from_keys("demo", keys.iter().map(|(key, value)| (*key, value.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(format: Format, extended: bool, topology: bool) -> Look {
        Look { format, extended, topology }
    }

    const LIST: &str = "\
+ Cluster: demo (7710395948784291904) ----------+----+-------------+-----+------------+-----+
| Member | Host           | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+
| node1  | 127.0.0.1:5432 | Leader  | running   |  1 |             |     |            |     |
| node2  | 127.0.0.1:5433 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |
| node3  | 127.0.0.1:5434 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+";

    #[test]
    fn the_list_is_patronictls() {
        let mut cluster = example();
        assert_eq!(render(&cluster, look(Format::Pretty, false, false)), LIST);
        cluster.config = json!({"pause": true});
        assert_eq!(
            render(&cluster, look(Format::Pretty, false, false)),
            format!("{LIST}\n Maintenance mode: on")
        );
    }

    #[test]
    fn the_extended_list_is_patronictls() {
        assert_eq!(
            render(&example(), look(Format::Pretty, true, false)),
            "\
+ Cluster: demo (7710395948784291904) ----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+
| Member | Host           | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason | Scheduled restart | Tags |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+
| node1  | 127.0.0.1:5432 | Leader  | running   |  1 |             |     |            |     |                 |                        |                   |      |
| node2  | 127.0.0.1:5433 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |                 |                        |                   |      |
| node3  | 127.0.0.1:5434 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |                 |                        |                   |      |
+--------+----------------+---------+-----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+"
        );
    }

    #[test]
    fn the_topology_is_patronictls() {
        let mut cluster = example();
        assert_eq!(
            render(&cluster, look(Format::Pretty, false, true)),
            "\
+ Cluster: demo (7710395948784291904) -----------+----+-------------+-----+------------+-----+
| Member  | Host           | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
+---------+----------------+---------+-----------+----+-------------+-----+------------+-----+
| node1   | 127.0.0.1:5432 | Leader  | running   |  1 |             |     |            |     |
| + node2 | 127.0.0.1:5433 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |
| + node3 | 127.0.0.1:5434 | Replica | streaming |  1 |   0/4000060 |   0 |  0/4000060 |   0 |
+---------+----------------+---------+-----------+----+-------------+-----+------------+-----+"
        );
        cluster.members[1].data["tags"] = json!({"replicatefrom": "node3"});
        let tree = [(0, "node1".to_owned()), (1, "node3".to_owned()), (2, "node2".to_owned())];
        assert_eq!(cluster.tree(), tree);
        cluster.members[2].data["tags"] = json!({"replicatefrom": "node2"});
        assert_eq!(cluster.tree().len(), 3);
    }

    #[test]
    fn json_yaml_and_tsv_are_patronictls() {
        let mut cluster = example();
        cluster.members[1].data = json!({
            "conn_url": "postgres://127.0.0.1:5433/postgres", "state": "restarting", "role": "replica",
        });
        assert_eq!(
            render(&cluster, look(Format::Json, false, false)),
            r#"[{"Cluster": "demo", "Member": "node1", "Host": "127.0.0.1:5432", "Role": "Leader", "State": "running", "TL": 1}, {"Cluster": "demo", "Member": "node2", "Host": "127.0.0.1:5433", "Role": "Replica", "State": "restarting", "Receive LSN": "unknown", "Replay LSN": "unknown"}, {"Cluster": "demo", "Member": "node3", "Host": "127.0.0.1:5434", "Role": "Replica", "State": "streaming", "TL": 1, "Receive LSN": "0/4000060", "Receive Lag": 0, "Replay LSN": "0/4000060", "Replay Lag": 0}]"#
        );
        let cluster = example();
        assert_eq!(
            render(&cluster, look(Format::Tsv, false, false)),
            "Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\n\
             demo\tnode1\t127.0.0.1:5432\tLeader\trunning\t1\t\t\t\t\n\
             demo\tnode2\t127.0.0.1:5433\tReplica\tstreaming\t1\t0/4000060\t0\t0/4000060\t0\n\
             demo\tnode3\t127.0.0.1:5434\tReplica\tstreaming\t1\t0/4000060\t0\t0/4000060\t0"
        );
        assert_eq!(
            render(&cluster, look(Format::Yaml, false, false))
                .lines()
                .take(13)
                .collect::<Vec<_>>()
                .join("\n"),
            "\
- Cluster: demo
  Host: 127.0.0.1:5432
  Member: node1
  Role: Leader
  State: running
  TL: 1
- Cluster: demo
  Host: 127.0.0.1:5433
  Member: node2
  Receive LSN: 0/4000060
  Receive Lag: 0
  Replay LSN: 0/4000060
  Replay Lag: 0"
        );
    }

    #[test]
    fn an_unknown_cluster_is_an_empty_table() {
        let cluster = Cluster { scope: "nosuch".into(), ..Cluster::default() };
        assert_eq!(
            render(&cluster, look(Format::Pretty, false, false)),
            "\
+ Cluster: nosuch (uninitialized) --+-------------+-----+------------+-----+
| Member | Host | Role | State | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+------+------+-------+----+-------------+-----+------------+-----+
+--------+------+------+-------+----+-------------+-----+------------+-----+"
        );
    }

    #[test]
    fn columns_appear_when_they_have_something_to_say() {
        let mut cluster = example();
        for member in [0, 2] {
            cluster.members[member].data["pending_restart"] = true.into();
            cluster.members[member].data["pending_restart_reason"] =
                json!({"max_connections": {"old_value": "100", "new_value": "101"}});
        }
        let text = render(&cluster, look(Format::Pretty, false, false));
        assert_eq!(
            text.lines().nth(3).unwrap(),
            "| node1  | 127.0.0.1:5432 | Leader  | running   |  1 |             |     |            |     | *               | max_connections: 100->101 |"
        );
    }

    #[test]
    fn roles_follow_the_sync_key_and_the_mode() {
        let mut cluster = example();
        cluster.sync = json!({"leader": "node1", "sync_standby": "Node2", "quorum": 0});
        assert_eq!(cluster.role(&cluster.members[1].clone()), Role::SyncStandby);
        cluster.config = json!({"synchronous_mode": "quorum"});
        assert_eq!(cluster.role(&cluster.members[1].clone()), Role::QuorumStandby);
        assert_eq!(cluster.role(&cluster.members[2].clone()), Role::Replica);
    }

    #[test]
    fn lag_is_in_megabytes_rounded_as_python_does() {
        assert_eq!(megabytes(0), 0);
        assert_eq!(megabytes(512 * 1024), 0);
        assert_eq!(megabytes(1536 * 1024), 2);
        assert_eq!(megabytes(416 << 20), 416);
        assert_eq!(format_lsn((3 << 32) | 0x60_0178), "3/600178");
    }
}
