//! Tables with the two faces that their readers know: patronictl's and etcdctl's.
//!
//! ```text
//! + Cluster: demo (7710395948784291904) ---+    +------------------+---------+
//! | Member | Host           | Role    | TL |    |        ID        | STATUS  |
//! +--------+----------------+---------+----+    +------------------+---------+
//! | node1  | 127.0.0.1:5432 | Leader  |  1 |    | 1e538232f1a33ff2 | started |
//! +--------+----------------+---------+----+    +------------------+---------+
//! ```

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

const ASCII: TableStyle = comfy_table::presets::ASCII_FULL_CONDENSED
    .top_border(LineStyle::new('+', '-', '+', '+'))
    .header_separator(LineStyle::new('+', '-', '+', '+'))
    .bottom_border(LineStyle::new('+', '-', '+', '+'));

/// patronictl's look: the title sits in the top border, headings are aligned like their columns.
#[must_use]
pub fn patronictl(title: Option<&str>, columns: &[(&str, CellAlignment)], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    let ruled = rows.iter().flatten().any(|cell| cell.contains('\n'));
    // A row of several lines is only readable with a rule below it.
    let style = if ruled { ASCII.row_separator(LineStyle::new('+', '-', '+', '+')) } else { ASCII };
    table.load_style(style).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|(name, alignment)| Cell::new(name).set_alignment(*alignment)));
    for row in rows {
        table.add_row(
            row.iter().zip(columns).map(|(cell, (_, alignment))| Cell::new(cell).set_alignment(*alignment)),
        );
    }
    let text = table.to_string();
    let Some(title) = title else { return text };
    let (top, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let title = format!("+ {title} ");
    let kept: String = top.chars().skip(title.chars().count()).collect();
    format!("{title}{kept}\n{rest}")
}

/// etcdctl's look: headings centred and in capitals, everything else to the right.
#[must_use]
pub fn etcdctl(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII).set_content_arrangement(ContentArrangement::Disabled);
    let heading = |(i, name): (usize, &&str)| {
        let mut name = name.to_uppercase();
        let widest =
            rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        // Go's writer puts the odd blank behind a centred heading, this library before it.
        if widest.saturating_sub(name.len()) % 2 == 1 {
            name.push(' ');
        }
        Cell::new(name).set_alignment(CellAlignment::Center)
    };
    table.set_header(columns.iter().enumerate().map(heading));
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
    }
    table.to_string()
}

/// A header and rows with tabs between.
#[must_use]
pub fn tsv(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut lines = vec![columns.join("\t")];
    lines.extend(rows.iter().map(|row| row.join("\t")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[&[&str]]) -> Vec<Vec<String>> {
        text.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn as_etcdctl_prints_members_and_health() {
        assert_eq!(
            etcdctl(
                &["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"],
                &rows(&[&[
                    "1e538232f1a33ff2",
                    "started",
                    "e35",
                    "http://127.0.0.1:13380",
                    "http://127.0.0.1:13379",
                    "false"
                ]])
            ),
            "\
+------------------+---------+------+------------------------+------------------------+------------+
|        ID        | STATUS  | NAME |       PEER ADDRS       |      CLIENT ADDRS      | IS LEARNER |
+------------------+---------+------+------------------------+------------------------+------------+
| 1e538232f1a33ff2 | started |  e35 | http://127.0.0.1:13380 | http://127.0.0.1:13379 |      false |
+------------------+---------+------+------------------------+------------------------+------------+"
        );
        assert_eq!(
            etcdctl(
                &["endpoint", "health", "took", "error"],
                &rows(&[&["127.0.0.1:13379", "true", "23.428373ms", ""]])
            ),
            "\
+-----------------+--------+-------------+-------+
|    ENDPOINT     | HEALTH |    TOOK     | ERROR |
+-----------------+--------+-------------+-------+
| 127.0.0.1:13379 |   true | 23.428373ms |       |
+-----------------+--------+-------------+-------+"
        );
    }

    #[test]
    fn as_patronictl_prints_history() {
        use CellAlignment::{Left, Right};
        let columns =
            [("TL", Right), ("LSN", Right), ("Reason", Left), ("Timestamp", Left), ("New Leader", Left)];
        assert_eq!(
            patronictl(
                None,
                &columns,
                &rows(&[&[
                    "1",
                    "67393352",
                    "no recovery target specified",
                    "2026-11-20T23:16:15.852463+00:00",
                    "node2"
                ]])
            ),
            "\
+----+----------+------------------------------+----------------------------------+------------+
| TL |      LSN | Reason                       | Timestamp                        | New Leader |
+----+----------+------------------------------+----------------------------------+------------+
|  1 | 67393352 | no recovery target specified | 2026-11-20T23:16:15.852463+00:00 | node2      |
+----+----------+------------------------------+----------------------------------+------------+"
        );
        assert_eq!(
            patronictl(None, &columns, &[]),
            "\
+----+-----+--------+-----------+------------+
| TL | LSN | Reason | Timestamp | New Leader |
+----+-----+--------+-----------+------------+
+----+-----+--------+-----------+------------+"
        );
    }
}
