FROM a
COPY --chwon=1 a b
ADD --parents a b
ENV --x a=b
COPY --link=maybe --chown --from=x --from=y --exclude a b
RUN --frobnicate x
