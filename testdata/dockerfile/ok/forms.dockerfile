from a
run ['a']
cmd []
entrypoint ["é", "\ud83d\ude00"]
copy ["a b", "c"]
copy [a b
volume ["/v 1", \
  "/v2"]
shell ["/bin/sh", "-ec"]
healthcheck none
healthcheck --interval=1m30s --timeout=5s --start-period=0.5s --retries=3 cmd curl -f x
healthcheck cmd ["true"]
run
run -- --odd
arg --ignored A
onbuild copy --from=x a b
run [ "$x" ] && true
run ["a",]
