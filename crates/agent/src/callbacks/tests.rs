use std::path::Path;

use super::*;

#[test]
fn words_are_those_of_pythons_shlex() {
    let words = |line: &str| split(line).unwrap();
    assert_eq!(words("/etc/told.sh"), ["/etc/told.sh"]);
    assert_eq!(words("  a\tb\n c "), ["a", "b", "c"]);
    assert_eq!(words(r#"sh -c 'echo "$@" \x' "" a''b"#), ["sh", "-c", r#"echo "$@" \x"#, "", "ab"]);
    assert_eq!(words(r#""a \" \\ \n $x" b\ c \'"#), [r#"a " \ \n $x"#, "b c", "'"]);
    assert_eq!(words("a # b"), ["a", "#", "b"], "no comments");
    for (line, why) in [
        (" ", "names no program"),
        ("a 'b", "the quote ' is not closed"),
        (r#"a "b\"#, "the quote \" is not closed"),
        (r"a \", "nothing follows the backslash at the end"),
    ] {
        assert_eq!(split(line).unwrap_err(), why);
    }
}

/// PostgreSQL as it is seen.
fn process(what: &str) -> Process {
    let (role, life) = what.split_once(' ').unwrap_or((what, ""));
    let role = match role {
        "stopped" => return Process::Stopped,
        "stopping" => return Process::Stopping { since: quorate_ha::Moment(Duration::ZERO) },
        "primary" => Role::Primary(quorate_ha::facts::PrimaryFacts {
            written: quorate_ha::facts::Lsn(1),
            oldest: None,
            since: quorate_ha::Moment(Duration::ZERO),
            checkpointed: true,
            replicas: Vec::new(),
            synchronous_standby_names: String::new(),
            sync_effective: None,
            forked: Vec::new(),
        }),
        "standby" => Role::Standby(quorate_ha::facts::StandbyFacts {
            received: quorate_ha::facts::Lsn(1),
            replayed: quorate_ha::facts::Lsn(1),
            receiver: quorate_ha::facts::Receiver::Gone,
            upstream: None,
            complete: true,
            replay_paused: false,
        }),
        other => panic!("{other}"),
    };
    Process::Running(Running {
        timeline: quorate_ha::TimelineId(1),
        role,
        server_version: 150_000,
        postmaster_start_time: life.to_owned(),
        pending_restart: false,
        slots: Vec::new(),
    })
}

fn runs(kind: OperationKind) -> OperationFacts {
    OperationFacts::Running { kind, started: quorate_ha::Moment(Duration::ZERO) }
}

fn over(kind: OperationKind) -> OperationFacts {
    let at = quorate_ha::Moment(Duration::ZERO);
    OperationFacts::Finished { kind, at, outcome: Outcome::Succeeded }
}

fn failed(kind: OperationKind) -> OperationFacts {
    let (at, why) = (quorate_ha::Moment(Duration::ZERO), String::new());
    OperationFacts::Finished { kind, at, outcome: Outcome::Failed { why } }
}

/// What is told of a sequence of looks.
fn story(told: &mut Told, looks: Vec<(&str, OperationFacts)>) -> Vec<String> {
    let news = looks.into_iter().filter_map(|(what, operation)| told.see(&process(what), &operation));
    news.map(|(event, role)| format!("{} {}", event.word(), role.word())).collect()
}

#[test]
fn each_thing_that_happens_is_told_once_and_by_its_name() {
    use OperationFacts::Idle;
    use OperationKind::{Bootstrap, Clone, Promote, Restart, StartAsPrimary, StartAsStandby, Stop};
    let told = |looks| story(&mut Told::default(), looks);

    // A new cluster, and a restart on request.
    let looks = vec![
        ("stopped", Idle),
        ("primary 1", runs(Bootstrap)),
        ("primary 1", over(Bootstrap)),
        ("primary 1", Idle),
        ("stopped", runs(Restart)),
        ("primary 2", over(Restart)),
        ("primary 2", over(Restart)),
    ];
    assert_eq!(told(looks), ["on_start primary", "on_restart primary"]);

    // A switchover, from both sides.
    let looks = vec![
        ("primary 1", Idle),
        ("stopping", runs(Stop)),
        ("stopped", runs(Stop)),
        ("stopped", over(Stop)),
        ("standby 2", over(StartAsStandby)),
    ];
    assert_eq!(told(looks), ["on_start primary", "on_stop primary", "on_role_change replica"]);
    let looks = vec![("standby 1", Idle), ("standby 1", runs(Promote)), ("primary 1", over(Promote))];
    assert_eq!(told(looks), ["on_start replica", "on_role_change primary"]);

    // A standby is cloned again.
    let looks = vec![("standby 1", Idle), ("stopped", runs(Clone)), ("standby 2", over(StartAsStandby))];
    assert_eq!(told(looks), ["on_start replica", "on_stop replica", "on_start replica"]);

    // What ends by itself was not stopped.
    let looks = vec![("primary 1", Idle), ("stopped", Idle), ("primary 2", over(StartAsPrimary))];
    assert_eq!(told(looks), ["on_start primary", "on_start primary"]);
}

#[test]
fn a_fence_is_a_stop_and_a_primary_that_does_not_come_back_is_demoted() {
    use OperationKind::StartAsStandby;
    let mut told = Told::default();
    story(&mut told, vec![("primary 1", OperationFacts::Idle)]);
    told.fenced();
    let looks = vec![
        ("stopped", OperationFacts::Idle),
        ("stopped", failed(StartAsStandby)),
        ("stopped", failed(StartAsStandby)),
        ("standby 2", over(StartAsStandby)),
    ];
    assert_eq!(
        story(&mut told, looks),
        ["on_stop primary", "on_role_change demoted", "on_role_change replica"]
    );
}

fn callbacks(dir: &Path, script: &str, set: impl FnOnce(&mut Scripts, Vec<String>)) -> Callbacks {
    let calls = dir.join("calls");
    let words = ["sh", "-c", &script.replace("CALLS", calls.to_str().unwrap()), "told"];
    let mut scripts = Scripts::default();
    set(&mut scripts, words.map(str::to_owned).into());
    Callbacks::new(scripts, "demo".to_owned(), None)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// No process but zombies is in this group.
fn gone(group: &str) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    !entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok()).any(|stat| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
        fields[0] != "Z" && fields[2] == group
    })
}

#[tokio::test]
async fn a_new_callback_ends_the_one_that_runs_and_a_reload_has_a_line_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let read = || std::fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
    // The first one waits for ever, in a child of its own.
    let script = r#"echo "$$ $*" >> CALLS; if test "$1" = on_start; then sleep 600; fi"#;
    let callbacks = callbacks(dir.path(), script, |scripts, words| {
        scripts.on_start = Some(words.clone());
        scripts.on_reload = Some(words.clone());
        scripts.on_role_change = Some(words);
    });
    callbacks.call(Event::OnStop, As::Primary); // there is none
    callbacks.call(Event::OnStart, As::Replica);
    until("on_start", || read().contains("on_start replica demo")).await;
    let group = read().split(' ').next().unwrap().to_owned();
    callbacks.call(Event::OnReload, As::Replica);
    until("on_reload", || read().contains("on_reload replica demo")).await;
    assert!(!gone(&group), "a reload is no reason to end it");
    callbacks.call(Event::OnRoleChange, As::Primary);
    callbacks.started().await;
    assert!(gone(&group), "it has ended before the next one was started, with what it had started");
    until("on_role_change", || read().contains("on_role_change primary demo")).await;
}

#[tokio::test]
async fn a_stop_waits_for_its_script_but_not_for_ever_and_a_promotion_needs_success() {
    let dir = tempfile::tempdir().unwrap();
    let read = || std::fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
    let hangs = callbacks(dir.path(), "echo $$ >> CALLS; sleep 600; true", |scripts, words| {
        scripts.before_stop = Some(words);
    });
    let stopping = tokio::spawn(async move { hangs.before_stop(Duration::from_secs(1)).await });
    until("the script", || read().ends_with('\n')).await;
    stopping.await.unwrap();
    until("its end", || gone(read().trim())).await;

    let vetoes = callbacks(dir.path(), "exit 3", |scripts, words| scripts.pre_promote = Some(words));
    let why = crate::execute::chain(&vetoes.pre_promote().await.unwrap_err());
    assert_eq!(why, "pre_promote has ended with exit status: 3");
    let missing = Scripts { pre_promote: Some(vec!["/nowhere/at/all".to_owned()]), ..Scripts::default() };
    let missing = Callbacks::new(missing, "demo".to_owned(), None);
    assert!(missing.pre_promote().await.is_err());
    assert!(Callbacks::new(Scripts::default(), "demo".to_owned(), None).pre_promote().await.is_ok());
}
