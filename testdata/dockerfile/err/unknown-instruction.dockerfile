FROM a
RUNN x
FOO bar
COPYY a b
