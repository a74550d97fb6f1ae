-- Adds one to a row of the thread's own, twice with the same key: it counts once.
function thread_init()
   connection = sysbench.sql.driver():connect()
   round = 0
end

function event()
   round = round + 1
   local update = "UPDATE sbtest1 SET k = k + 1 WHERE id = %d /* idempotency-key: sysbench-%d-%d */"
   for _ = 1, 2 do
      connection:query(update:format(sysbench.tid + 1, sysbench.tid, round))
   end
end

function thread_done()
   connection:disconnect()
end
