//! Users, roles, and who is let in.

use crate::servers::{
    Tool, agree, command, err, etcdctl, out, quoratectl, same, sentence, stores, with_input,
};

#[test]
fn users_and_roles_are_printed_as_etcdctl_prints_them() {
    for server in stores() {
        let done = |line: &str, said: &str| {
            let output = quoratectl(&server, &line.split(' ').collect::<Vec<_>>());
            assert_eq!(out(&output), said, "{line}: {}", err(&output));
        };
        done("user add root:secret", "User root created\n");
        done("user add ann --new-user-password=secret", "User ann created\n");
        done("user add bob --no-password", "User bob created\n");
        let typed = with_input(Tool::Quoratectl, &server, &["user", "add", "carl"], "pw\npw\n");
        assert!(out(&typed).ends_with("User carl created\n"), "{}", err(&typed));
        let typed = with_input(Tool::Quoratectl, &server, &["user", "passwd", "carl"], "pw\nwp\n");
        assert_eq!(
            (typed.status.code(), sentence(&typed).as_str()),
            (Some(128), "Error: given passwords are different")
        );
        let piped =
            with_input(Tool::Quoratectl, &server, &["user", "passwd", "carl", "--interactive=false"], "wp\n");
        assert_eq!(out(&piped), "Password updated\n");
        done("role add r", "Role r created\n");
        done("role grant-permission r read k", "Role r updated\n");
        done("role grant-permission r write a b", "Role r updated\n");
        done("role grant-permission r readwrite p --prefix", "Role r updated\n");
        done("role grant-permission r read x --from-key", "Role r updated\n");
        done("user grant-role ann r", "Role r is granted to user ann\n");
        for form in ["simple", "json", "fields", "protobuf", "table"] {
            for line in ["role get r", "role list", "user get ann", "user list"] {
                same(&server, &[&line.split(' ').collect::<Vec<_>>()[..], &["-w", form]].concat());
            }
        }
        same(&server, &["user", "get", "ann", "--detail"]);
        done("role revoke-permission r a b", "Permission of range [a, b) is revoked from role r\n");
        done("role revoke-permission r k", "Permission of key k is revoked from role r\n");
        done(
            "role revoke-permission r x --from-key",
            "Permission of range [x, <open ended> is revoked from role r\n",
        );
        done("user revoke-role ann r", "Role r is revoked from user ann\n");
        done("user delete bob", "User bob deleted\n");
        done("role delete r", "Role r deleted\n");
        // 3.5's; 3.4 has none.
        if !server.is_etcd {
            let status = out(&quoratectl(&server, &["auth", "status"]));
            assert!(status.starts_with("Authentication Status: false\nAuthRevision: "), "{status}");
        }
        for line in [
            "user add",
            "user add :x",
            "user get",
            "user get nobody",
            "user delete nobody",
            "user grant-role ann",
            "user grant-role ann norole",
            "role add",
            "role get norole",
            "role grant-permission r read",
            "role grant-permission r look k",
            "role grant-permission norole read k",
            "role grant-permission r read a b --prefix",
            "role revoke-permission r",
            "auth enable x",
        ] {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
    }
}

#[test]
fn who_is_asked_is_let_in_by_name() {
    for server in stores() {
        same(&server, &["auth", "enable"]);
        for line in [
            "user add root:secret",
            "user add ann:secret",
            "role add r",
            "role grant-permission r readwrite a --prefix",
            "user grant-role ann r",
        ] {
            let output = quoratectl(&server, &line.split(' ').collect::<Vec<_>>());
            assert!(output.status.success(), "{line}: {}", err(&output));
        }
        // The role root is made on the way.
        assert_eq!(out(&quoratectl(&server, &["auth", "enable"])), "Authentication Enabled\n");
        let refused = quoratectl(&server, &["get", "a"]);
        assert_eq!(sentence(&refused), sentence(&etcdctl(&server, &["get", "a"])));
        for line in [
            "put a1 v --user ann:secret",
            "get a --prefix --user ann --password secret",
            "get z --user ann:secret",
            "put z v --user ann:secret",
            "get z --user root:secret",
            "user list --user root:secret",
            "user list --user ann:secret",
            "member list --user root:secret",
            "lock a/lock --user ann:secret -- true",
        ] {
            same(&server, &line.split(' ').collect::<Vec<_>>());
        }
        let wrong = quoratectl(&server, &["get", "a", "--user", "ann:wrong"]);
        assert_eq!(sentence(&wrong), sentence(&etcdctl(&server, &["get", "a", "--user", "ann:wrong"])));
        assert!(sentence(&wrong).contains("authentication failed"));
        let both = Tool::BOTH.map(|tool| {
            command(tool.path(), &server)
                .env("ETCDCTL_USER", "ann:secret")
                .args(["get", "a1"])
                .output()
                .unwrap()
        });
        agree("the user in a variable", &both[0], &both[1]);
        let asked = with_input(Tool::Quoratectl, &server, &["get", "a1", "--user", "ann"], "secret\n");
        assert_eq!(out(&asked), "Password: a1\nv\n");
        let health = quoratectl(&server, &["endpoint", "health", "--user", "ann:secret"]);
        assert!(health.status.success(), "{}", err(&health));
        let off = quoratectl(&server, &["auth", "disable", "--user", "root:secret"]);
        assert_eq!(out(&off), "Authentication Disabled\n", "{}", err(&off));
        // Whoever still names a user is let in.
        assert_eq!(out(&quoratectl(&server, &["get", "a1", "--user", "ann:secret"])), "a1\nv\n");
    }
}
