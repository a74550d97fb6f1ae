<?php
// Runs the cases through one PHP extension and prints what it showed, one case a line. As python/session.py.

class NotOffered extends Exception {}

function shown($value) {
    $text = is_object($value) || is_array($value) ? json_encode($value) : gettype($value) . ' ' . var_export($value, true);
    if (!preg_match('//u', $text)) $text = gettype($value) . ' x' . bin2hex($value);
    return strlen($text) <= 200 ? $text : substr($text, 0, 40) . '… ' . strlen($text) . ' ' . hash('sha256', $text);
}

function shown_rows($rows) {
    $rows = array_map(fn($row) => array_map('shown', array_values($row)), $rows);
    return count($rows) <= 20 ? $rows : ['rows' => count($rows), 'first' => $rows[0], 'sha256' => hash('sha256', json_encode($rows))];
}

function parameter($value) {
    if (!is_array($value)) return $value;
    $kind = array_key_first($value);
    $text = $value[$kind];
    return match ($kind) {
        'bytes' => hex2bin($text),
        'repeat' => str_repeat($text[0], $text[1]),
        'repeat_bytes' => hex2bin(str_repeat($text[0], $text[1])),
        default => $text,
    };
}

class Sessions {
    private $opened = [];

    function __construct(private $driver, private $plan, private $options) {}

    function get($name) {
        return $this->opened[$name] ??= new $this->driver(($this->options[$name] ?? []) + $this->plan);
    }

    function close() {
        $this->opened = [];
    }

    private function filled($sql) {
        $sql = preg_replace_callback('/\{x:(\d+)\}/', fn($found) => str_repeat('x', $found[1]), $sql);
        return preg_replace_callback('/\{id(?::(\w+))?\}/', fn($found) => $this->get($found[1] ?? 'a')->thread_id(), $sql);
    }

    function step($step) {
        if (is_string($step)) $step = ['sql' => $step];
        $name = $step['on'] ?? 'a';
        $kind = array_values(array_diff(array_keys($step), ['on', 'fails']))[0];
        if ($kind === 'close') {
            unset($this->opened[$name]);
            return null;
        }
        $method = ['sql' => 'query', 'use' => 'schema'][$kind] ?? $kind;
        $session = $this->get($name);
        if (!method_exists($session, $method)) throw new NotOffered($kind);
        return match ($kind) {
            'sql' => $session->query($this->filled($step['sql'])),
            'prepare' => $session->prepare($step['prepare'], array_map(fn($values) => array_map('parameter', $values), $step['params'])),
            'cursor' => $session->cursor($step['cursor'], $step['size'], $step['batches'] ?? PHP_INT_MAX),
            default => $session->$method($step[$kind]),
        };
    }
}

function run($driver) {
    ini_set('memory_limit', '1G');
    // Warnings are part of what is shown.
    set_error_handler(function ($level, $message) { throw new ErrorException($message, $level); });
    $plan = json_decode(file_get_contents($_SERVER['argv'][1]), true);
    $cases = $plan['cases'];
    unset($plan['cases']);
    $cleaner = new Sessions($driver, $plan, []);
    foreach ($cases as $case) {
        foreach ($plan['clean'] as $statement) $cleaner->get('a')->query($statement);
        $sessions = new Sessions($driver, $plan, $case['connect'] ?? []);
        $steps = [];
        $line = null;
        foreach ($case['steps'] as $step) {
            try {
                $steps[] = ['seen' => $sessions->step($step)];
            } catch (NotOffered $kind) {
                $line = ['not_offered' => $kind->getMessage()];
                break;
            } catch (Throwable $error) {
                // mysqlnd tells the number of the process that its connection broke in.
                $message = preg_replace('/PID=\d+/', 'PID', $error->getMessage());
                $steps[] = ['error' => [get_class($error), $error->getCode(), shown($message), $driver::error_details($error)]];
            }
        }
        $sessions->close();
        $line ??= ['steps' => $steps];
        $json = json_encode($line, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE);
        echo '{"case": ' . json_encode($case['name'], JSON_UNESCAPED_SLASHES) . ', ' . substr($json, 1) . "\n";
    }
}
