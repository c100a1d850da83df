//! The `postgresql` section of `/config`, as `pg` takes it.
//!
//! YAML and JSON know booleans and numbers where PostgreSQL's configuration knows text; a value that is neither is left out
//! and named, because a parameter that silently is not what the operator wrote is worse than one that is missing.

use quorate_pg::Settings;
use serde_json::Value;

/// The settings of a dynamic configuration.
pub(crate) fn of_config(config: &Value) -> Settings {
    let Some(section) = config.get("postgresql") else { return Settings::default() };
    let lines = |name: &str| -> Vec<String> {
        let list = section.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let parameters = section.get("parameters").and_then(Value::as_object);
    Settings {
        parameters: parameters
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), text(name, value)?)))
            .collect(),
        pg_hba: lines("pg_hba"),
        pg_ident: lines("pg_ident"),
    }
}

fn text(name: &str, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "on" } else { "off" }.into()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => {
            tracing::warn!(
                parameter = name,
                "a PostgreSQL parameter must be text, a number or a boolean and is ignored"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_text() {
        let settings = of_config(&json!({"ttl": 5, "postgresql": {
            "parameters": {"max_connections": 100, "hot_standby": true, "wal_level": "replica", "x": null, "y": [1]},
            "pg_hba": ["local all all trust"]}}));
        let parameters: Vec<_> =
            settings.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(parameters, ["hot_standby=on", "max_connections=100", "wal_level=replica"]);
        assert_eq!(settings.pg_hba, ["local all all trust"]);
        assert_eq!(of_config(&json!({})), Settings::default());
    }
}
