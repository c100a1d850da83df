//! What a fresh machine lacks: Debian packages, and for the tests Python programs.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{python, run};

/// A package and a file that it brings.
pub(crate) type Package = (&'static str, &'static str);

/// What `quorate demo` needs.
pub(crate) const FOR_DEMO: &[Package] = &[("postgresql-15", "/usr/lib/postgresql/15/bin/postgres")];

/// What the tests drive: PostgreSQL, unmodified etcd clients, HAProxy, Python, networks that can be cut. One of them, the `etcd-client` crate, compiles
/// etcd's protocol with `protoc` when the tests are built.
pub(crate) const FOR_TESTS: &[Package] = &[
    ("postgresql-15", "/usr/lib/postgresql/15/bin/postgres"),
    ("etcd-client", "/usr/bin/etcdctl"),
    ("etcd-server", "/usr/bin/etcd"),
    ("haproxy", "/usr/sbin/haproxy"),
    ("prometheus", "/usr/bin/prometheus"),
    ("curl", "/usr/bin/curl"),
    ("iproute2", "/usr/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("protobuf-compiler", "/usr/bin/protoc"),
    ("libprotobuf-dev", "/usr/include/google/protobuf/descriptor.proto"),
    ("strace", "/usr/bin/strace"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    ("python3-venv", "/usr/lib/python3.11/ensurepip/__init__.py"),
];

/// Everything that the tests drive.
pub(crate) fn for_tests() -> Result<()> {
    install(FOR_TESTS)?;
    python::install()
}

/// Installs what is missing and says so. The distribution's own clusters and services are neither created nor started.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing by apt: {}", missing.join(", "));
    if run::output("id", &["-u"])?.trim() != "0" {
        bail!("not root: run `sudo apt-get install {}` and try again", missing.join(" "));
    }
    // A package's post-installation script starts services only if policy-rc.d lets it: ours says no for this one run.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        std::fs::write(policy, "#!/bin/sh\nexit 101\n").context("cannot write /usr/sbin/policy-rc.d")?;
        run::output("chmod", &["755", "/usr/sbin/policy-rc.d"])?;
    }
    keep_debian_from_making_a_cluster()?;
    let result = apt(&missing);
    if ours {
        std::fs::remove_file(policy).context("cannot remove /usr/sbin/policy-rc.d")?;
    }
    result
}

/// Debian's package makes a cluster called `main` unless this file says no. A file of the operator's own is left alone.
fn keep_debian_from_making_a_cluster() -> Result<()> {
    let file = Path::new("/etc/postgresql-common/createcluster.conf");
    if !file.exists() {
        std::fs::create_dir_all("/etc/postgresql-common")?;
        std::fs::write(file, "create_main_cluster = false\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn apt(missing: &[&str]) -> Result<()> {
    let mut args = vec![
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
    ];
    args.extend_from_slice(missing);
    run::command("apt-get", &["update", "--quiet"])?;
    run::command("env", &args)
}
