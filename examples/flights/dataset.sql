-- One row per flight that left and arrived: what is known when it leaves the gate, and whether it came in late.
-- Cancelled and diverted flights have no arrival delay, so they carry no label and are left out.
SELECT
    f.time_hour,                                    -- event_time: rows are held out by it
    f.arr_delay > 15                                          AS late,
    f.dep_delay,
    f.hour,
    f.minute,
    isodow(make_date(f.year, f.month, f.day))::INTEGER        AS weekday,
    f.distance,
    f.carrier,
    f.origin,
    f.dest,
    f.flight,
    w.temp,
    w.humid,
    w.wind_speed,
    w.precip,
    w.visib,
    w.pressure,
    f.year - p.year                                           AS plane_age,   -- NULL for one flight in six
    p.seats,
    a.lat                                                     AS dest_lat,
    a.lon                                                     AS dest_lon,
    a.alt                                                     AS dest_alt
FROM flights AS f
LEFT JOIN weather  AS w ON w.origin = f.origin AND w.time_hour = epoch(f.time_hour)::BIGINT
LEFT JOIN planes   AS p ON p.tailnum = f.tailnum
LEFT JOIN airports AS a ON a.faa = f.dest
WHERE f.arr_delay IS NOT NULL AND f.dep_time IS NOT NULL
