FROM a
RUN --mount=type=cahce,target=/c \
    --mount=type=bind,required,target=/x \
    --mount=target=/x,tagret=/y true
RUN --mount=type=cache,from=$x,target=/y true
RUN --mount=type=secret --network=bad --security=no true
