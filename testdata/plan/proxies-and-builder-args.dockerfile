FROM busybox
RUN one
ARG FTP_PROXY
RUN two
RUN --mount=type=cache,target=/root/.cache three
#! --build-arg HTTP_PROXY=http://p --build-arg https_proxy=http://q --build-arg FTP_PROXY=ftp://p
#! --build-arg BUILDKIT_SANDBOX_HOSTNAME=box --build-arg BUILDKIT_CACHE_MOUNT_NS=ns --build-arg SOURCE_DATE_EPOCH=12
