//! The guard's own loop, against processes that look like PostgreSQL's to it: programs called `postgres` that work in the data
//! directory. Real PostgreSQL under a real guard process is in `crates/quorate/tests/guard.rs`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_agent::fence::Margin;
use quorate_agent::guard::process::{Guard, Options};
use quorate_agent::guard::record;
use quorate_agent::guard::wire::{Answer, BYTES, Device, Message, Order};
use quorate_agent::watchdog::{self, Linux, SAFETY, Watchdog};
use quorate_node::clock::boottime;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// For anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed to the system's allocator as it came; the counter is a plain cell of this thread without a
// destructor, so that touching it allocates nothing.
#[allow(unsafe_code, reason = "counting what is allocated has no other door")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A guard on a thread, its agent's end of the socket, and a data directory.
struct Scene {
    dir: tempfile::TempDir,
    orders: Option<OwnedFd>,
    guard: Option<JoinHandle<u64>>,
    seq: u64,
}

impl Scene {
    fn new() -> Scene {
        Scene::with_device(None::<Watchdog<Linux>>)
    }

    fn with_device(watchdog: Option<Watchdog<impl watchdog::Device + Send + 'static>>) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("data/global")).unwrap();
        std::fs::write(dir.path().join("data/global/pg_control"), "").unwrap();
        std::fs::copy("/bin/sleep", dir.path().join("postgres")).unwrap();
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let options = Options {
            data_dir: dir.path().join("data"),
            stop_budget: Duration::from_millis(500),
            watchdog: None,
        };
        let mut guard = Guard::with_device(&options, theirs, watchdog).unwrap();
        let guard = std::thread::spawn(move || {
            let before = ALLOCATIONS.with(Cell::get);
            guard.watch();
            ALLOCATIONS.with(Cell::get) - before
        });
        let mut scene = Scene { dir, orders: Some(ours), guard: Some(guard), seq: 0 };
        assert!(matches!(scene.answer(), Answer::Ready { .. }));
        scene
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn postgres(&self) -> Child {
        Command::new(self.dir.path().join("postgres"))
            .arg("600")
            .current_dir(self.data_dir())
            .spawn()
            .unwrap()
    }

    fn answer(&mut self) -> Answer {
        let mut bytes = [0; BYTES];
        let socket = self.orders.as_ref().unwrap();
        let (length, _) = rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()).unwrap();
        Answer::unpack(&bytes[..length]).unwrap()
    }

    fn say(&mut self, message: Message) -> Answer {
        let socket = self.orders.as_ref().unwrap();
        rustix::net::send(socket, &message.pack(), SendFlags::empty()).unwrap();
        self.answer()
    }

    fn order(&mut self, order: Order) {
        self.seq += 1;
        assert_eq!(self.say(Message::Order(self.seq, order)), Answer::Obeyed(self.seq, Device::Idle));
    }

    /// The agent dies.
    fn hang_up(&mut self) {
        self.orders = None;
    }

    /// The guard's end: how often it has allocated.
    fn end(&mut self) -> u64 {
        let guard = self.guard.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !guard.is_finished() {
            assert!(Instant::now() < deadline, "the guard has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        guard.join().unwrap()
    }
}

fn armed(deadline: Duration) -> Order {
    Order::Armed { deadline, valid_until: deadline + Duration::from_millis(800) }
}

fn soon() -> Duration {
    boottime() + Duration::from_millis(400)
}

/// Waits for its end: when it was seen.
fn death(child: &mut Child) -> Duration {
    child.wait().unwrap();
    boottime()
}

fn lives(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_none()
}

#[test]
fn at_the_deadline_everything_is_killed_sealed_and_written_down_without_an_allocation() {
    let mut scene = Scene::new();
    let (mut postmaster, mut backend) = (scene.postgres(), scene.postgres());
    let deadline = soon();
    scene.order(armed(deadline));
    let seen = [death(&mut postmaster), death(&mut backend)];
    assert!(seen.iter().all(|at| *at >= deadline), "not before the deadline");
    assert_eq!(scene.answer(), Answer::Fenced);
    assert!(scene.data_dir().join("standby.signal").exists());
    let record = record::take(&scene.data_dir()).unwrap();
    assert_eq!((record.deadline.as_millis(), record.found, record.sealed), (deadline.as_millis(), 2, true));
    assert!(record.begun >= record.deadline && record.done >= record.begun);
    assert!(matches!(record.margin(), Margin::Before(_)), "{}", record.margin());
    scene.hang_up();
    assert_eq!(scene.end(), 0, "allocations between the first order and the end");
}

#[test]
fn later_orders_move_the_deadline_and_the_last_one_counts() {
    let mut scene = Scene::new();
    let mut postmaster = scene.postgres();
    let first = soon();
    scene.order(armed(first));
    let second = first + Duration::from_millis(600);
    scene.order(armed(second));
    assert!(death(&mut postmaster) >= second);
    assert_eq!(scene.answer(), Answer::Fenced);
    scene.hang_up();
    scene.end();
}

#[test]
fn disarmed_it_does_nothing_and_ends_with_its_agent() {
    let mut scene = Scene::new();
    let mut postmaster = scene.postgres();
    let deadline = soon();
    scene.order(armed(deadline));
    scene.order(Order::Disarmed);
    while boottime() < deadline + Duration::from_millis(200) {
        assert!(lives(&mut postmaster));
        std::thread::sleep(Duration::from_millis(10));
    }
    scene.hang_up();
    assert_eq!(scene.end(), 0);
    assert!(lives(&mut postmaster));
    assert!(!scene.data_dir().join("standby.signal").exists());
    postmaster.kill().unwrap();
    postmaster.wait().unwrap();
}

#[test]
fn the_agents_death_disarms_nothing() {
    let mut scene = Scene::new();
    let mut postmaster = scene.postgres();
    let deadline = soon();
    scene.order(armed(deadline));
    scene.hang_up();
    assert!(death(&mut postmaster) >= deadline);
    scene.end();
    assert_eq!(record::take(&scene.data_dir()).unwrap().found, 1);
}

#[test]
fn what_comes_back_is_killed_until_an_order_says_otherwise() {
    let mut scene = Scene::new();
    let deadline = boottime();
    scene.order(armed(deadline));
    assert_eq!(scene.answer(), Answer::Fenced);
    assert_eq!(record::take(&scene.data_dir()), None, "nothing was running: nothing to tell");
    death(&mut scene.postgres());
    // A beat repeats the order that was acted on, and changes nothing.
    let again = scene.say(Message::Order(scene.seq, armed(deadline)));
    assert_eq!(again, Answer::Obeyed(scene.seq, Device::Idle));
    death(&mut scene.postgres());
    // A new lease permits it again.
    scene.order(armed(boottime() + PATIENCE));
    let mut postmaster = scene.postgres();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        assert!(lives(&mut postmaster));
        std::thread::sleep(Duration::from_millis(10));
    }
    scene.order(Order::Disarmed);
    scene.hang_up();
    scene.end();
    postmaster.kill().unwrap();
    postmaster.wait().unwrap();
}

/// A device that writes down how many of PostgreSQL's processes live when something is done to it.
#[derive(Clone, Default)]
struct Recorder {
    processes: Arc<Mutex<Vec<u32>>>,
    did: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Recorder {
    fn note(&self, what: &'static str) {
        // A zombie has no directory.
        let lives = |process: &&u32| std::fs::read_link(format!("/proc/{process}/cwd")).is_ok();
        let living = self.processes.lock().unwrap().iter().filter(lives).count();
        self.did.lock().unwrap().push((what, living));
    }
}

impl watchdog::Device for Recorder {
    fn open(&mut self) -> Result<(), Errno> {
        self.note("open");
        Ok(())
    }
    fn set_timeout(&mut self, seconds: u32) -> Result<u32, Errno> {
        self.note("timeout");
        Ok(seconds)
    }
    fn pet(&mut self) -> Result<(), Errno> {
        self.note("pet");
        Ok(())
    }
    fn disarm(&mut self) -> Result<(), Errno> {
        self.note("disarm");
        Ok(())
    }
}

/// S15.
#[test]
fn the_device_is_disarmed_behind_the_last_backend() {
    let device = Recorder::default();
    let mut scene = Scene::with_device(Some(Watchdog::new(device.clone(), SAFETY)));
    let (mut postmaster, mut backend) = (scene.postgres(), scene.postgres());
    device.processes.lock().unwrap().extend([postmaster.id(), backend.id()]);
    // The second pet would come long after the deadline.
    let deadline = soon();
    let order = Order::Armed { deadline, valid_until: deadline + Duration::from_millis(3_600) };
    assert_eq!(scene.say(Message::Order(1, order)), Answer::Obeyed(1, Device::Active));
    death(&mut postmaster);
    death(&mut backend);
    assert_eq!(scene.answer(), Answer::Fenced);
    scene.hang_up();
    scene.end();
    assert_eq!(*device.did.lock().unwrap(), [("open", 2), ("timeout", 2), ("pet", 2), ("disarm", 0)]);
}

#[test]
fn what_it_may_kill_it_can_say() {
    let mut scene = Scene::new();
    let own = i32::try_from(std::process::id()).unwrap();
    assert_eq!(scene.say(Message::Reach(own)), Answer::Reached(0));
    let none = rustix::io::Errno::SRCH.raw_os_error();
    assert_eq!(scene.say(Message::Reach(i32::MAX)), Answer::Reached(none));
    scene.hang_up();
    scene.end();
}
