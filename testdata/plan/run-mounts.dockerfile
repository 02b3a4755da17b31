FROM busybox AS tools
FROM busybox
WORKDIR /w
ENV T=/t
RUN --mount=from=tools,source=bin/../usr,target=$T --mount=type=bind,rw,target=rel ls
RUN --mount=type=cache,target=/c --mount=type=cache,id=x,target=c2,sharing=locked,uid=5 --mount=type=cache,from=tools,source=/seed,target=/c3,ro true
RUN --mount=type=tmpfs,target=/tmp,size=1m --mount=type=secret,id=token --mount=type=secret,id=k,env=KEY --mount=type=secret,target=/run/s/file,mode=0444 echo $KEY
RUN --mount=type=ssh --mount=type=ssh,id=other,required true
