ARG BASE=busybox
ARG V=global
FROM $BASE AS a
ARG V
ARG A=first B="$A y" C D=
RUN echo $V
ENV A=env
ARG A
RUN echo $A
ARG TARGETARCH
FROM a
RUN echo "$A"
LABEL v=$V arch=$TARGETARCH
#! --build-arg D=given --build-arg C= --build-arg NOTUSED=1
