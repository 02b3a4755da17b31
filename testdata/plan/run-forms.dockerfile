FROM busybox
RUN echo "$HOME" \
  two
RUN ["/bin/x", "a b"]
RUN <<EOF
set -e
echo $x
EOF
RUN <<run.py
#!/usr/bin/python3
print(1)
run.py
RUN cat <<A > /x && cat <<B
a
A
b
B
RUN --network=none --security=insecure true
RUN --network=host true
#! --allow-all
