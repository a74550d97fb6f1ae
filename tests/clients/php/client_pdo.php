<?php
// PDO with the server's own prepared statements.

require __DIR__ . '/session.php';

class Session {
    private $pdo;

    function __construct($login) {
        if (isset($login['attributes'])) throw new NotOffered('attributes');
        $dsn = "mysql:host=$login[host];port=$login[port];charset=" . ($login['charset'] ?? 'utf8mb4');
        if ($login['schema']) $dsn .= ";dbname=$login[schema]";
        $options = [
            PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => false, PDO::MYSQL_ATTR_FOUND_ROWS => (bool) ($login['found_rows'] ?? false),
            PDO::MYSQL_ATTR_MULTI_STATEMENTS => (bool) ($login['multi'] ?? false), PDO::MYSQL_ATTR_LOCAL_INFILE => (bool) ($login['local_infile'] ?? false),
            PDO::MYSQL_ATTR_COMPRESS => (bool) ($login['compress'] ?? false),
        ];
        if ($login['tls'] ?? false) $options += [PDO::MYSQL_ATTR_SSL_CA => $login['ca'], PDO::MYSQL_ATTR_SSL_VERIFY_SERVER_CERT => true];
        $this->pdo = new PDO($dsn, $login['user'], $login['password'], $options);
    }

    static function error_details($error) {
        return $error instanceof PDOException ? $error->errorInfo : null;
    }

    private function results($statement) {
        $results = [];
        do {
            $columns = [];
            for ($place = 0; $place < $statement->columnCount(); $place++) $columns[] = $statement->getColumnMeta($place);
            $rows = $columns ? shown_rows($statement->fetchAll(PDO::FETCH_NUM)) : null;
            $results[] = ['columns' => $columns, 'rows' => $rows, 'affected' => $statement->rowCount(), 'insert_id' => $this->pdo->lastInsertId()];
        } while ($statement->nextRowset());
        return $results;
    }

    function query($sql) {
        return $this->results($this->pdo->query($sql));
    }

    function prepare($sql, $executions) {
        $statement = $this->pdo->prepare($sql);
        $seen = [];
        foreach ($executions as $values) {
            foreach ($values as $place => $value) {
                $type = match (true) { is_null($value) => PDO::PARAM_NULL, is_int($value) => PDO::PARAM_INT, default => PDO::PARAM_STR };
                $statement->bindValue($place + 1, $value, $type);
            }
            $statement->execute();
            $seen[] = $this->results($statement);
        }
        return $seen;
    }

    function cursor($sql, $size, $batches) {
        // Unbuffered: read row by row from the connection.
        $this->pdo->setAttribute(PDO::MYSQL_ATTR_USE_BUFFERED_QUERY, false);
        $statement = $this->pdo->query($sql);
        $rows = [];
        while (count($rows) < $size * $batches && ($row = $statement->fetch(PDO::FETCH_NUM))) $rows[] = $row;
        $statement->closeCursor();
        $this->pdo->setAttribute(PDO::MYSQL_ATTR_USE_BUFFERED_QUERY, true);
        return shown_rows($rows);
    }

    function thread_id() {
        return $this->pdo->query('SELECT CONNECTION_ID()')->fetchColumn();
    }

    function greeting() {
        return [$this->pdo->getAttribute(PDO::ATTR_SERVER_VERSION), $this->pdo->getAttribute(PDO::ATTR_CONNECTION_STATUS)];
    }

    function begin() {
        return $this->pdo->beginTransaction();
    }

    function commit() {
        return $this->pdo->commit();
    }

    function rollback() {
        return $this->pdo->rollBack();
    }

    function autocommit($on) {
        return $this->pdo->setAttribute(PDO::ATTR_AUTOCOMMIT, $on);
    }
}

run('Session');
