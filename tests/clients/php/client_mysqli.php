<?php
// mysqli on mysqlnd.

require __DIR__ . '/session.php';

class Session {
    private $mysqli;

    function __construct($login) {
        if (isset($login['attributes'])) throw new NotOffered('attributes');
        mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
        $this->mysqli = mysqli_init();
        $this->mysqli->options(MYSQLI_OPT_LOCAL_INFILE, (int) ($login['local_infile'] ?? false));
        $this->mysqli->options(MYSQLI_OPT_INT_AND_FLOAT_NATIVE, 1);
        $flags = ($login['found_rows'] ?? false) ? MYSQLI_CLIENT_FOUND_ROWS : 0;
        if ($login['compress'] ?? false) $flags |= MYSQLI_CLIENT_COMPRESS;
        if ($login['tls'] ?? false) {
            $flags |= MYSQLI_CLIENT_SSL;
            $this->mysqli->ssl_set(null, null, $login['ca'], null, null);
        }
        $this->multi = $login['multi'] ?? false;
        $this->mysqli->real_connect($login['host'], $login['user'], $login['password'], $login['schema'], $login['port'], null, $flags);
        $this->mysqli->set_charset($login['charset'] ?? 'utf8mb4');
    }

    private $multi;

    function __destruct() {
        try {
            $this->mysqli->close();
        } catch (Throwable) {
            // It was never opened.
        }
    }

    static function error_details($error) {
        return $error instanceof mysqli_sql_exception ? $error->getSqlState() : null;
    }

    private function seen($result) {
        $columns = $result ? $result->fetch_fields() : null;
        $rows = $result ? shown_rows($result->fetch_all(MYSQLI_NUM)) : null;
        $db = $this->mysqli;
        return ['columns' => $columns, 'rows' => $rows, 'affected' => $db->affected_rows, 'insert_id' => $db->insert_id, 'warnings' => $db->warning_count, 'info' => $db->info];
    }

    function query($sql) {
        if (!$this->multi) {
            $result = $this->mysqli->query($sql);
            return [$this->seen($result === true ? null : $result)];
        }
        $this->mysqli->multi_query($sql);
        $results = [];
        do {
            $results[] = $this->seen($this->mysqli->store_result() ?: null);
        } while ($this->mysqli->more_results() && $this->mysqli->next_result());
        return $results;
    }

    function prepare($sql, $executions) {
        $statement = $this->mysqli->prepare($sql);
        $seen = [];
        foreach ($executions as $values) {
            $types = implode('', array_map(fn($value) => is_int($value) ? 'i' : (is_float($value) ? 'd' : (is_string($value) && strlen($value) > 100000 ? 'b' : 's')), $values));
            $bound = array_map(fn($value) => is_string($value) && strlen($value) > 100000 ? null : $value, $values);
            $statement->bind_param($types, ...$bound);
            // Long ones go ahead of the execution, in pieces.
            foreach ($values as $place => $value) if ($types[$place] === 'b') foreach (str_split($value, 1000000) as $piece) $statement->send_long_data($place, $piece);
            $statement->execute();
            $results = [];
            do {
                $result = $statement->get_result();
                $results[] = [
                    'columns' => $result ? $result->fetch_fields() : null, 'rows' => $result ? shown_rows($result->fetch_all(MYSQLI_NUM)) : null,
                    'affected' => $statement->affected_rows, 'insert_id' => $statement->insert_id, 'warnings' => $this->mysqli->warning_count,
                ];
            } while ($statement->more_results() && $statement->next_result());
            $seen[] = $results;
        }
        return $seen;
    }

    function cursor($sql, $size, $batches) {
        $statement = $this->mysqli->prepare($sql);
        $statement->attr_set(MYSQLI_STMT_ATTR_CURSOR_TYPE, MYSQLI_CURSOR_TYPE_READ_ONLY);
        $statement->execute();
        $columns = $statement->field_count;
        $row = array_fill(0, $columns, null);
        $statement->bind_result(...$row);
        $rows = [];
        while (count($rows) < $size * $batches && $statement->fetch()) $rows[] = array_map(fn($value) => $value, $row);
        $statement->close();
        return shown_rows($rows);
    }

    function thread_id() {
        return $this->mysqli->thread_id;
    }

    function greeting() {
        $db = $this->mysqli;
        return [$db->server_info, $db->server_version, $db->protocol_version, $db->host_info, $db->character_set_name()];
    }

    function ping() {
        return $this->mysqli->ping();
    }

    function schema($name) {
        return $this->mysqli->select_db($name);
    }

    function change_user($login) {
        return $this->mysqli->change_user($login['user'], $login['password'], $login['schema']);
    }

    function begin() {
        return $this->mysqli->begin_transaction();
    }

    function commit() {
        return $this->mysqli->commit();
    }

    function rollback() {
        return $this->mysqli->rollback();
    }

    function autocommit($on) {
        return $this->mysqli->autocommit($on);
    }
}

run('Session');
