FROM busybox
ENV E=env
ARG E=arg
RUN one
ARG LATER=arg
ENV LATER=env
RUN two
ENV abc=hello
ENV abc=bye def=$abc
LABEL e=$E later=$LATER def=$def
#! --build-arg E=cli --build-arg LATER=cli
