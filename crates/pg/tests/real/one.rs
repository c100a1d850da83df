//! One instance on real PostgreSQL: bootstrap, probe, adopt, stop, fence, refuse.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::lab::*;
use quorate_ha::facts::{ControlState, DataDirectory, Lsn, Process, TimelineId};
use quorate_pg::control_file::ControlFile;
use quorate_pg::{CommandError, Credentials, Error, Instance, Settings, StopMode, fence_now};
use rustix::process::Signal;

#[tokio::test]
async fn an_instance_is_made_probed_adopted_and_stopped() {
    let Some(mut lab) = lab() else { return };
    let instance = lab.instance("n1").await;
    assert_eq!(probe(&instance).await.data_directory, DataDirectory::Missing);
    assert_eq!(probe(&instance).await.process, Process::Stopped);
    instance.bootstrap(&options()).await.unwrap();

    // Probe of a primary.
    let facts = probe(&instance).await;
    let DataDirectory::Initialised(on_disk) = &facts.data_directory else { panic!("{facts:?}") };
    assert_eq!(on_disk.was_primary_on, Some(TimelineId(1)));
    let first = running(&instance).await;
    assert_eq!(first.timeline, TimelineId(1));
    let primary = as_primary(&instance).await;
    assert!(primary.written > Lsn(0) && primary.checkpointed && primary.forked.is_empty());
    assert_eq!(primary.synchronous_standby_names, "");
    assert_eq!(value(&instance, "SHOW cluster_name").await, "lab");
    assert_eq!(value(&instance, "SHOW wal_log_hints").await, "on");

    // The cluster's settings: reloaded, or waiting for a restart.
    let mut changed = settings();
    changed.parameters.insert("max_connections".to_owned(), "40".to_owned());
    changed.parameters.insert("work_mem".to_owned(), "7MB".to_owned());
    instance.configure(&changed).await.unwrap();
    eventually("the reload is read", async || value(&instance, "SHOW work_mem").await == "7MB").await;
    eventually("a restart is due", async || running(&instance).await.pending_restart).await;

    // Slots.
    let slots =
        |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    instance.set_slots(&slots(&["n2", "n3"]), &slots(&[])).await.unwrap();
    instance.set_slots(&slots(&["n2"]), &slots(&["n3", "unknown"])).await.unwrap();
    let names: Vec<String> = running(&instance).await.slots.into_iter().map(|slot| slot.name).collect();
    assert_eq!(names, ["n2"]);

    // Another value for the same directory adopts what runs.
    let pid = postmaster(&instance);
    let adopter = Instance::new(instance.config().clone()).unwrap();
    adopter.configure(&changed).await.unwrap();
    assert_eq!(running(&adopter).await.postmaster_start_time, first.postmaster_start_time);
    assert!(matches!(adopter.start_as_primary("").await, Err(Error::WrongState { .. })));
    assert_eq!(postmaster(&adopter), pid);

    // A restart clears what was due; the kept connection of the probe is replaced.
    adopter.restart().await.unwrap();
    assert!(!running(&adopter).await.pending_restart);
    assert_ne!(running(&instance).await.postmaster_start_time, first.postmaster_start_time);

    // An idle session does not delay a fast stop; the control file then says what pg_controldata says.
    let _idle = client(&adopter).await.unwrap();
    adopter.stop(StopMode::Fast).await.unwrap();
    assert_eq!(probe(&adopter).await.process, Process::Stopped);
    compare_with_pg_controldata(&adopter);
    let control = ControlFile::read(&adopter.config().data_dir).unwrap();
    assert_eq!(control.state, ControlState::ShutDown);
    assert_eq!(control.wal_end().unwrap().0 - control.checkpoint.0, 120, "one shutdown checkpoint record");

    // Immediate: the next start recovers, on the same timeline.
    adopter.start_as_primary("").await.unwrap();
    adopter.stop(StopMode::Immediate).await.unwrap();
    compare_with_pg_controldata(&adopter);
    assert_eq!(ControlFile::read(&adopter.config().data_dir).unwrap().wal_end(), None);
    // A leftover postmaster.pid whose number belongs to a stranger by now.
    let leftover = adopter.config().data_dir.join("postmaster.pid");
    std::fs::write(&leftover, format!("{}\n/nowhere\n1\n1\n/tmp\n*\n\nready\n", std::process::id())).unwrap();
    assert_eq!(probe(&adopter).await.process, Process::Stopped);
    adopter.start_as_primary("").await.unwrap();
    assert_eq!(running(&adopter).await.timeline, TimelineId(1));
    // Twice is once.
    adopter.stop(StopMode::Fast).await.unwrap();
    adopter.stop(StopMode::Fast).await.unwrap();
}

fn compare_with_pg_controldata(instance: &Instance) {
    let config = instance.config();
    let output = std::process::Command::new(config.bin_dir.join("pg_controldata"))
        .env("LC_ALL", "C")
        .arg(&config.data_dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = |label: &str| {
        let line =
            text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label} in {text}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    let control = ControlFile::read(&config.data_dir).unwrap();
    assert_eq!(said("Database system identifier"), control.system_identifier.to_string());
    let state = match control.state {
        ControlState::StartingUp => "starting up",
        ControlState::ShutDown => "shut down",
        ControlState::ShutDownInRecovery => "shut down in recovery",
        ControlState::ShuttingDown => "shutting down",
        ControlState::InCrashRecovery => "in crash recovery",
        ControlState::InArchiveRecovery => "in archive recovery",
        ControlState::InProduction => "in production",
    };
    assert_eq!(said("Database cluster state"), state);
    assert_eq!(said("Latest checkpoint location"), control.checkpoint.to_string());
    assert_eq!(said("Latest checkpoint's REDO location"), control.redo.to_string());
    assert_eq!(said("Latest checkpoint's TimeLineID"), control.timeline.to_string());
    assert_eq!(said("Minimum recovery ending location"), control.min_recovery_point.to_string());
    assert_eq!(said("Min recovery ending loc's timeline"), control.min_recovery_timeline.to_string());
    assert_eq!(said("Backup start location"), control.backup_start_point.to_string());
    assert_eq!(said("max_connections setting"), control.max_connections.to_string());
    assert_eq!(said("max_worker_processes setting"), control.max_worker_processes.to_string());
    assert_eq!(said("max_wal_senders setting"), control.max_wal_senders.to_string());
    assert_eq!(said("max_prepared_xacts setting"), control.max_prepared_transactions.to_string());
    assert_eq!(said("max_locks_per_xact setting"), control.max_locks_per_transaction.to_string());
    assert_eq!(said("wal_log_hints setting"), if control.wal_log_hints { "on" } else { "off" });
    assert_eq!(said("Bytes per WAL segment"), control.wal_segment_bytes.to_string());
    assert_eq!(said("WAL block size"), control.wal_page_bytes.to_string());
    assert_eq!(said("Data page checksum version") != "0", control.data_checksums);
}

/// Nothing of the server is left, by the process table and not by the fence's own word.
fn assert_gone(instance: &Instance) {
    assert_eq!(pids(instance, ""), Vec::<i32>::new());
}

#[tokio::test]
async fn a_fence_leaves_no_backend() {
    let Some(mut lab) = lab() else { return };
    let instance = lab.primary("n1").await;
    run(&instance, "CREATE TABLE t (n bigint)").await;
    let dir = instance.config().data_dir.clone();

    for stop_postmaster in [false, true] {
        // Writers at work, a session in the middle of a transaction, one in a long query, one stopped.
        let mut writers = Vec::new();
        for _ in 0..4 {
            let writer = client(&instance).await.unwrap();
            writers.push(tokio::spawn(async move {
                let mut acknowledged = 0_u64;
                while writer.batch_execute("INSERT INTO t VALUES (1)").await.is_ok() {
                    acknowledged += 1;
                }
                acknowledged
            }));
        }
        let open = client(&instance).await.unwrap();
        open.batch_execute("BEGIN; INSERT INTO t VALUES (2)").await.unwrap();
        let busy = client(&instance).await.unwrap();
        let busy = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(1000)").await });
        let frozen = client(&instance).await.unwrap();
        let frozen_pid: i32 = frozen.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        signal(frozen_pid, Signal::STOP);
        eventually("writes flow", async || {
            value(&instance, "SELECT count(*)::text FROM t").await.parse::<u64>().unwrap() > 20
        })
        .await;
        if stop_postmaster {
            signal(postmaster(&instance), Signal::STOP);
        }
        let before = pids(&instance, "").len();
        assert!(before >= 12, "{before}");

        // As the fence thread calls it: a plain thread, no executor.
        let target = dir.clone();
        let report = std::thread::spawn(move || fence_now(&target, PATIENCE)).join().unwrap().unwrap();
        assert_gone(&instance);
        assert!(report.found >= 12, "{report:?}");
        assert!(report.killed >= 1, "the stopped ones obey nothing but SIGKILL: {report:?}");

        let mut acknowledged = 0;
        for writer in writers {
            acknowledged += writer.await.unwrap();
        }
        assert!(busy.await.unwrap().is_err());
        assert!(open.batch_execute("COMMIT").await.is_err());
        assert_eq!(probe(&instance).await.process, Process::Stopped);

        // What was acknowledged is there, the open transaction is not, and a later start is allowed.
        instance.start_as_primary("").await.unwrap();
        let rows: u64 = value(&instance, "SELECT count(*)::text FROM t WHERE n = 1").await.parse().unwrap();
        assert!(rows >= acknowledged, "{rows} rows, {acknowledged} acknowledged");
        assert_eq!(value(&instance, "SELECT count(*)::text FROM t WHERE n = 2").await, "0");
        run(&instance, "TRUNCATE t").await;
    }

    // A postmaster that is gone, with backends that are not.
    let _session = client(&instance).await.unwrap();
    let orphan = client(&instance).await.unwrap();
    let orphan_pid: i32 = orphan.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    signal(orphan_pid, Signal::STOP);
    signal(postmaster(&instance), Signal::KILL);
    eventually("only the stopped backend is left", async || pids(&instance, "") == [orphan_pid]).await;
    assert!(matches!(probe(&instance).await.process, Process::Stopping { .. }));
    assert!(matches!(instance.start_as_primary("").await, Err(Error::WrongState { .. })));
    instance.fence(PATIENCE).await.unwrap();
    assert_gone(&instance);

    // After a fence nothing starts read-write by accident (S12), and what it was is not forgotten (S7).
    let DataDirectory::Initialised(on_disk) = instance.data_directory() else { panic!() };
    assert!(on_disk.standby_signal);
    assert_eq!(on_disk.was_primary_on, Some(TimelineId(1)));
    // Nothing to fence is a success, and quick.
    assert_eq!(fence_now(&dir, PATIENCE).unwrap().found, 0);
    assert_eq!(fence_now(&lab.path().join("nowhere"), PATIENCE).unwrap().found, 0);
}

#[tokio::test]
async fn a_hung_server_is_unresponsive_and_a_strangers_shell_is_left_alone() {
    let Some(mut lab) = lab() else { return };
    let instance = lab.primary("n1").await;
    running(&instance).await;
    // Somebody has changed into the data directory: not PostgreSQL, not killed.
    let mut stranger = Stranger(
        std::process::Command::new("/bin/sleep")
            .arg("100")
            .current_dir(&instance.config().data_dir)
            .spawn()
            .unwrap(),
    );
    for pid in pids(&instance, "postgres") {
        signal(pid, Signal::STOP);
    }
    let begun = Instant::now();
    let facts = probe(&instance).await;
    assert!(matches!(facts.process, Process::Unresponsive { .. }), "{facts:?}");
    assert!(matches!(facts.data_directory, DataDirectory::Initialised(_)));
    // The bound, with room for a machine that is busy otherwise.
    assert!(begun.elapsed() < quorate_pg::PROBE_DEADLINE + Duration::from_secs(2), "{:?}", begun.elapsed());
    fence_now(&instance.config().data_dir, PATIENCE).unwrap();
    assert_eq!(stranger.0.try_wait().unwrap(), None, "the stranger lives");
    assert_eq!(pids(&instance, "").len(), 1);
}

/// Ends with the test, whatever the test's end.
struct Stranger(std::process::Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn bad_input_gets_one_sentence_and_changes_nothing() {
    let Some(mut lab) = lab() else { return };

    let mut config = lab.config("missing");
    config.bin_dir = "/nowhere/bin".into();
    let instance = Instance::new(config).unwrap();
    let error = instance.bootstrap(&options()).await.unwrap_err();
    assert!(matches!(error, Error::Command(CommandError::Missing { .. })));
    let text = error.to_string();
    assert!(text.contains("/nowhere/bin") && text.contains("apt install postgresql"), "{text}");
    assert_eq!(instance.data_directory(), DataDirectory::Missing);

    // Something that is no data directory.
    let instance = lab.instance("other").await;
    std::fs::create_dir(&instance.config().data_dir).unwrap();
    assert_eq!(instance.data_directory(), DataDirectory::Empty);
    let precious = instance.config().data_dir.join("precious.txt");
    std::fs::write(&precious, "mine").unwrap();
    assert!(matches!(instance.data_directory(), DataDirectory::Unreadable { .. }));
    let upstream = &source(&instance);
    assert!(matches!(instance.bootstrap(&options()).await, Err(Error::WrongDirectory { .. })));
    assert!(matches!(
        instance.clone_from(upstream, None, None, &|_| {}).await,
        Err(Error::WrongDirectory { .. })
    ));
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "mine");

    // A port in use, an unusable value: the log's tail is in the error, and the failed cluster is moved away.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = lab.config("port");
    config.port = taken.local_addr().unwrap().port();
    let instance = Instance::new(config).unwrap();
    instance.configure(&settings()).await.unwrap();
    let text = instance.bootstrap(&options()).await.unwrap_err().to_string();
    assert!(text.contains("Address already in use") && text.contains("postgresql.listen"), "{text}");
    assert_eq!(instance.data_directory(), DataDirectory::Missing);

    // A damaged control file.
    let instance = lab.primary("damaged").await;
    instance.stop(StopMode::Immediate).await.unwrap();
    let control = instance.config().data_dir.join("global/pg_control");
    let mut bytes = std::fs::read(&control).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&control, &bytes).unwrap();
    let DataDirectory::Unreadable { why } = instance.data_directory() else { panic!() };
    assert!(why.contains("pg_control") && why.contains("checksum"), "{why}");
    assert!(matches!(instance.start_as_primary("").await, Err(Error::WrongDirectory { .. })));
    assert!(matches!(instance.bootstrap(&options()).await, Err(Error::WrongDirectory { .. })));

    let mut config = lab.config("password");
    config.superuser = Credentials::new("postgres", Some("two\nlines"));
    assert!(Instance::new(config).is_err());
    let instance = lab.instance("value").await;
    let mut bad = Settings::default();
    bad.parameters.insert("work_mem".to_owned(), "1MB\nfsync = off".to_owned());
    assert!(instance.configure(&bad).await.is_err());
}
