FROM scratch
ENV X=1
COPY <<one <<"two" plain /d/
$X "${Y:-z}"
one
$X
two
ADD --chmod=600 <<EOF /file
by add
EOF
