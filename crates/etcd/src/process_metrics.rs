//! The process in numbers, under the names that every client library of Prometheus has, and etcd's own two for descriptors.
//!
//! Read from `/proc/self` when somebody asks. What cannot be read is left out, and the rest is still said.

use std::fmt::Write as _;

/// Fields of `/proc/self/stat` behind the name of the program, from 0 (proc(5) numbers them from 3).
const UTIME: usize = 11;
const STIME: usize = 12;
const THREADS: usize = 17;
const START_TIME: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

/// Appends to `text`.
pub(crate) fn write(text: &mut String) {
    let mut say = |name: &str, kind: &str, help: &str, value: f64| {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // The name may hold spaces and parentheses: what counts is behind the last one.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
        let field = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
        #[allow(clippy::cast_precision_loss, reason = "both are small")]
        let (ticks, page) =
            (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64);
        if let (Some(user), Some(system)) = (field(UTIME), field(STIME)) {
            let help = "User and system time spent, in seconds.";
            say("process_cpu_seconds_total", "counter", help, (user + system) / ticks);
        }
        if let Some(threads) = field(THREADS) {
            say("process_threads", "gauge", "Threads.", threads);
        }
        if let Some(bytes) = field(VIRTUAL_BYTES) {
            say("process_virtual_memory_bytes", "gauge", "Virtual memory, in bytes.", bytes);
        }
        if let Some(pages) = field(RESIDENT_PAGES) {
            say("process_resident_memory_bytes", "gauge", "Resident memory, in bytes.", pages * page);
        }
        if let (Some(start), Some(boot)) = (field(START_TIME), boot_time()) {
            let help = "When the process was started, in seconds of the Unix clock.";
            say("process_start_time_seconds", "gauge", help, boot + start / ticks);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the listing's own.
        #[allow(clippy::cast_precision_loss, reason = "a number of descriptors")]
        let open = open.count().saturating_sub(1) as f64;
        say("process_open_fds", "gauge", "Open file descriptors.", open);
        say("os_fd_used", "gauge", "Open file descriptors, under etcd's name.", open);
    }
    #[allow(clippy::cast_precision_loss, reason = "a number of descriptors")]
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        say("process_max_fds", "gauge", "File descriptors that may be open.", most as f64);
        say("os_fd_limit", "gauge", "File descriptors that may be open, under etcd's name.", most as f64);
    }
}

/// Seconds of the Unix clock when the machine was started.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_is_described() {
        let mut text = String::new();
        super::write(&mut text);
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is missing in:\n{text}")).parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_threads") >= 1.0);
    }
}
