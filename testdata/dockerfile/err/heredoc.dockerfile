FROM a
COPY a <<EOF
EOF
RUN cat <<'X
RUN <<END
echo x
 END
