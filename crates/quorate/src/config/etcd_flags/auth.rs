//! `--auth-token`, `--auth-token-ttl`, `--bcrypt-cost`.

use std::path::PathBuf;
use std::time::Duration;

use quorate_node::auth::{AuthOptions, JwtOptions, SignMethod, TokenOptions};

use super::{Given, Origin, Report, go_duration};

/// etcd's, for both kinds of tokens.
const TTL: Duration = Duration::from_secs(300);
/// What bcrypt can do.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

impl Given {
    pub(super) fn auth(&self, report: &mut Report) -> AuthOptions {
        let mut options = AuthOptions { token: self.token(report), ..AuthOptions::default() };
        match self.number::<u32>("bcrypt-cost", report) {
            None => {}
            Some(cost) if COSTS.contains(&cost) => options.bcrypt_cost = cost,
            Some(cost) => {
                let origin = self.get("bcrypt-cost").map_or(Origin::File, |(_, origin)| origin);
                let why = format!("{cost} is not between 4 and 31: {} is used", options.bcrypt_cost);
                report.warning(origin, "", why);
            }
        }
        options
    }

    fn token(&self, report: &mut Report) -> TokenOptions {
        let ttl = self.number::<u64>("auth-token-ttl", report).filter(|ttl_s| *ttl_s > 0);
        let simple = TokenOptions::Simple { ttl: ttl.map_or(TTL, Duration::from_secs) };
        let Some((text, origin)) = self.get("auth-token") else { return simple };
        match parse(text) {
            Ok(Some(jwt)) => TokenOptions::Jwt(jwt),
            Ok(None) => simple,
            Err(why) => {
                report.error(origin, "", why);
                simple
            }
        }
    }
}

/// `simple`, or `jwt,pub-key=FILE,priv-key=FILE,sign-method=NAME,ttl=DURATION`. None: simple.
fn parse(text: &str) -> Result<Option<JwtOptions>, String> {
    let mut parts = text.split(',');
    match parts.next() {
        Some("simple" | "") | None => return Ok(None),
        Some("jwt") => {}
        Some(other) => return Err(format!("expected simple or jwt, found {other:?}")),
    }
    let mut method = None;
    let mut jwt = JwtOptions { method: SignMethod::Rs256, public_key: None, private_key: None, ttl: TTL };
    for part in parts {
        let (name, value) = part.split_once('=').ok_or(format!("expected name=value, found {part:?}"))?;
        match name {
            "pub-key" => jwt.public_key = Some(PathBuf::from(value)),
            "priv-key" => jwt.private_key = Some(PathBuf::from(value)),
            "sign-method" => {
                let known = || SignMethod::ALL.map(|(name, _)| name).join(", ");
                method = Some(
                    SignMethod::named(value)
                        .ok_or_else(|| format!("sign-method {value:?} is none of {}", known()))?,
                );
            }
            "ttl" => {
                jwt.ttl = go_duration(value)
                    .filter(|ttl| !ttl.is_zero())
                    .ok_or(format!("expected a duration such as 10m for ttl, found {value:?}"))?;
            }
            other => return Err(format!("{other:?} is no option of jwt")),
        }
    }
    jwt.method = method.ok_or("jwt needs sign-method=NAME, for example RS256")?;
    Ok(Some(jwt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_etcd_reads_them() {
        assert_eq!(parse("simple"), Ok(None));
        let jwt = parse("jwt,pub-key=a.pub,priv-key=a.key,sign-method=ES256,ttl=1h30m").unwrap().unwrap();
        assert_eq!(jwt.method, SignMethod::Es256);
        assert_eq!((jwt.public_key, jwt.private_key), (Some("a.pub".into()), Some("a.key".into())));
        assert_eq!(jwt.ttl, Duration::from_secs(5400));
        assert_eq!(parse("jwt,priv-key=a,sign-method=HS256").unwrap().unwrap().ttl, TTL);
        for wrong in [
            "jwt",
            "paseto",
            "jwt,sign-method=none",
            "jwt,sign-method=RS256,ttl=soon",
            "jwt,sign-method",
            "jwt,sign-method=RS256,colour=blue",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
