//! The scenario: a few writes in every way, their arrival on the slaves, refusals, and the proof that all are equal.

use std::time::Instant;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    DemoError,
    clients::{MysqlClient, PATIENCE, POLL, http},
    narration::Narration,
    nodes::{Nodes, RunningNode},
};

/// The rows that the scenario is about.
const ROWS: &str = "SELECT CONCAT_WS(' | ', id, name, price, stock) FROM shop.item ORDER BY id";
/// Every table that is replicated.
const TABLES: &str = "SELECT CONCAT('`', REPLACE(table_schema, '`', '``'), '`.`', REPLACE(table_name, '`', '``'), '`') \
    FROM information_schema.tables WHERE table_type = 'BASE TABLE' \
    AND table_schema NOT IN ('information_schema', 'performance_schema', 'mysql', 'sys', 'towline') ORDER BY 1";
/// Writes on a slave, plain and in disguise.
const REFUSED: [&str; 4] = [
    "INSERT INTO shop.item (name, price, stock) VALUES ('anchor', 1, 1)",
    "/*M! DELETE FROM shop.item */",
    "SET SESSION TRANSACTION READ WRITE",
    "DROP TABLE shop.item",
];

/// Plays it.
pub(super) async fn play(nodes: &Nodes, narration: &Narration) -> Result<(), DemoError> {
    let mut scene = Scene::begin(nodes, narration).await?;
    scene.schema().await?;
    scene.http_rows().await?;
    scene.mysql_rows().await?;
    scene.rolled_back().await?;
    scene.search().await?;
    scene.refusals().await?;
    scene.equal().await?;
    scene.progress().await?;
    scene.end().await
}

struct Scene<'a> {
    nodes: &'a Nodes,
    narration: &'a Narration,
    http: Client,
    master: MysqlClient,
    slaves: Vec<(&'a RunningNode, MysqlClient)>,
}

impl<'a> Scene<'a> {
    async fn begin(nodes: &'a Nodes, narration: &'a Narration) -> Result<Self, DemoError> {
        let login = async |node: &RunningNode| {
            let failed =
                |source| DemoError::Mysql { node: node.name().to_owned(), statement: "(login)".into(), source };
            node.login().await.map_err(failed)
        };
        let mut slaves = Vec::new();
        for node in nodes.slaves() {
            slaves.push((node, login(node).await?));
        }
        Ok(Self { nodes, narration, http: Client::new(), master: login(nodes.master()).await?, slaves })
    }

    async fn schema(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("A database and a table, over HTTP");
        self.post(json!({"action": "drop_database", "dbname": "shop", "if_exists": true})).await?;
        self.post(json!({"action": "create_database", "dbname": "shop"})).await?;
        self.post(json!({"action": "create_table", "dbname": "shop", "table": "item", "attrs": [
            "id INT NOT NULL AUTO_INCREMENT PRIMARY KEY", "name VARCHAR(40) NOT NULL", "price DECIMAL(8,2) NOT NULL",
            "stock INT NOT NULL"]}))
            .await?;
        self.arrive().await
    }

    async fn http_rows(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("Rows over HTTP");
        self.post(json!({"action": "insert", "dbname": "shop", "table": "item", "data": [
            {"name": "rope", "price": "12.50", "stock": 40}, {"name": "hook", "price": "3.20", "stock": 150},
            {"name": "buoy", "price": "49.00", "stock": 7}]}))
            .await?;
        self.arrive().await?;
        self.post(json!({"action": "update", "dbname": "shop", "table": "item", "data": {"stock": 39},
            "query": {"name": "rope"}}))
            .await?;
        self.post(json!({"action": "delete", "dbname": "shop", "table": "item", "query": {"price": {"lt": 5}}}))
            .await?;
        self.arrive().await
    }

    async fn mysql_rows(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("Rows by the MySQL protocol, in one transaction");
        for statement in [
            "START TRANSACTION",
            "INSERT INTO shop.item (name, price, stock) VALUES ('winch', 310.00, 2), ('rope ladder', 64.90, 5)",
            "UPDATE shop.item SET price = price * 1.1 WHERE stock < 10",
            "COMMIT",
        ] {
            self.statement(statement).await?;
        }
        self.arrive().await
    }

    async fn rolled_back(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("A transaction that is rolled back: no slave ever sees it");
        for statement in ["START TRANSACTION", "DELETE FROM shop.item", "ROLLBACK"] {
            self.statement(statement).await?;
        }
        self.unchanged().await
    }

    async fn search(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("A search, asked of a slave");
        let command = json!({"action": "search", "dbname": "shop", "table": "item", "term": "rope",
            "columns": ["name"], "attrs": ["id", "name"]});
        let node = &self.nodes.slaves()[0];
        let answer = http(&self.http, node, (Method::POST, node.url()), Some(&command), 200).await?;
        self.narration.http(&node.url(), &command.to_string(), &answer["rows"].to_string());
        Ok(())
    }

    async fn refusals(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("Writes that a slave refuses");
        let command = json!({"action": "insert", "dbname": "shop", "table": "item",
            "data": {"name": "anchor", "price": "1.00", "stock": 1}});
        let (node, client) = &mut self.slaves[0];
        let answer = http(&self.http, node, (Method::POST, node.url()), Some(&command), 403).await?;
        self.narration.http(&node.url(), &command.to_string(), &answer["error"].to_string());
        for statement in REFUSED {
            let refusal = client.refusal(statement).await?;
            self.narration.mysql(node.name(), statement, &refusal);
        }
        Ok(())
    }

    /// Every table of every slave against the master's.
    async fn equal(&mut self) -> Result<(), DemoError> {
        self.narration.chapter("Every table of every slave equals the master's, by CHECKSUM TABLE");
        let wanted = checksums(&mut self.master).await?;
        for (node, client) in &mut self.slaves {
            let start = Instant::now();
            loop {
                let found = checksums(client).await?;
                if found == wanted {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    return Err(different(node, &wanted, &found));
                }
                sleep(POLL).await;
            }
        }
        for line in &wanted {
            self.narration.result(&format!("{line} on all {} nodes", self.nodes.all().len()));
        }
        Ok(())
    }

    /// What the master knows of its slaves.
    async fn progress(&self) -> Result<(), DemoError> {
        let node = self.nodes.master();
        let url = format!("http://{}/status", node.ready().admin);
        self.narration.chapter(&format!("What the master says of its slaves (curl {url})"));
        let status = http(&self.http, node, (Method::GET, url), None, 200).await?;
        for slave in status["slaves"].as_array().into_iter().flatten() {
            let position = plain(&slave["mark"]["position"]);
            let (url, state) = (plain(&slave["url"]), plain(&slave["state"]));
            self.narration.result(&format!("{url} {state} at {position}, {} s behind", slave["lag_seconds"]));
        }
        Ok(())
    }

    async fn end(self) -> Result<(), DemoError> {
        self.master.leave().await?;
        for (_, client) in self.slaves {
            client.leave().await?;
        }
        Ok(())
    }

    /// A command over HTTP, to the master.
    async fn post(&self, command: Value) -> Result<(), DemoError> {
        let node = self.nodes.master();
        let answer = http(&self.http, node, (Method::POST, node.url()), Some(&command), 200).await?;
        let summary = format!("{} rows, position {}", answer["affected_rows"], plain(&answer["position"]));
        self.narration.http(&node.url(), &command.to_string(), &summary);
        Ok(())
    }

    /// A statement by the MySQL protocol, to the master.
    async fn statement(&mut self, statement: &str) -> Result<(), DemoError> {
        self.master.run(statement).await?;
        self.narration.mysql(self.nodes.master().name(), statement, "");
        Ok(())
    }

    /// Waits until every slave shows the master's rows, and tells when it did.
    async fn arrive(&mut self) -> Result<(), DemoError> {
        let start = Instant::now();
        let wanted = self.master.rows(ROWS).await?;
        let mut first = true;
        for (node, client) in &mut self.slaves {
            let after = loop {
                // The table itself may still be on its way.
                match client.rows(ROWS).await {
                    Ok(rows) if rows == wanted => break start.elapsed(),
                    Err(error) if start.elapsed() > PATIENCE => return Err(error),
                    Ok(rows) if start.elapsed() > PATIENCE => return Err(different(node, &wanted, &rows)),
                    Ok(_) | Err(_) => sleep(POLL).await,
                }
            };
            let position = position(&self.http, node).await?;
            self.narration.arrived(node.name(), after, &position);
            // All show the same, so it is shown once.
            if std::mem::take(&mut first) {
                self.narration.rows(&wanted);
            }
        }
        Ok(())
    }

    /// What every slave shows after a change that never was.
    async fn unchanged(&mut self) -> Result<(), DemoError> {
        let wanted = self.master.rows(ROWS).await?;
        for (node, client) in &mut self.slaves {
            let found = client.rows(ROWS).await?;
            if found != wanted {
                return Err(different(node, &wanted, &found));
            }
            let position = position(&self.http, node).await?;
            self.narration.result(&format!("{} shows {} rows as before, at {position}", node.name(), found.len()));
        }
        Ok(())
    }
}

/// Where a node stands, by its own word.
async fn position(client: &Client, node: &RunningNode) -> Result<String, DemoError> {
    let url = format!("http://{}/status", node.ready().admin);
    let status = http(client, node, (Method::GET, url), None, 200).await?;
    Ok(plain(&status["position"]).to_owned())
}

/// `table checksum` for every table that is replicated.
async fn checksums(client: &mut MysqlClient) -> Result<Vec<String>, DemoError> {
    let mut lines = Vec::new();
    for table in client.rows(TABLES).await? {
        if let Some((_, checksum)) = client.pair(&format!("CHECKSUM TABLE {table}")).await? {
            lines.push(format!("{table} {}", checksum.as_deref().unwrap_or("NULL")));
        }
    }
    Ok(lines)
}

fn different(node: &RunningNode, master: &[String], slave: &[String]) -> DemoError {
    DemoError::Different {
        node: node.name().to_owned(),
        after: PATIENCE,
        master: format!("{master:?}"),
        slave: format!("{slave:?}"),
        log: node.process().log_end(),
    }
}

/// A JSON text without its quotes.
fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
