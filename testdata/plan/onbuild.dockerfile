FROM busybox AS helper
RUN helping
FROM trigger AS mid
RUN own
ONBUILD RUN <<EOT
once
EOT
FROM mid
RUN last
