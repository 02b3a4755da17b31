FROM
FROM a b
FROM a AS 1st
FROM a AS x y
FROM a AS "b"
