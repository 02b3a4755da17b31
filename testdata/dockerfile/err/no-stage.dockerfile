ENV A=1
RUN true
FROM a
