FROM a
RUN <<EOF
echo one \
# kept
EOF
RUN cat <<A > /a && cat <<-"B" > /b
1
A
	2
	B
COPY --chmod=755 <<one.txt <<'two' x /dir/
$x
one.txt
$y
two
ONBUILD RUN <<-E
	hi
	E
RUN ["cat", "<<EOF"]
RUN echo "<<EOF" $((1<<3)) <<<x
CMD <<EOF
