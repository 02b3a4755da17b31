# syntax=example.com/other/language:1
FROM busybox
