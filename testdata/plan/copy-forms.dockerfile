FROM busybox
WORKDIR /w
ENV D=dir
COPY a b/../c ./
COPY --chown=app:staff --chmod=u+x,go= --exclude=*.o --exclude=!x $D/ /abs/../dest
COPY --parents a/./b /x/
COPY --link one /linked/
COPY --link --chmod=644 two /plain/
COPY ["with space", "/sp ace/"]
COPY --chmod=$NOPE x .
