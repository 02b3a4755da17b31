FROM busybox AS build
FROM busybox
#! --target biuld
