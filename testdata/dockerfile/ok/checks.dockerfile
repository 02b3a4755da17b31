# check=skip=JSONArgsRecommended
from a AS Build
FROM b AS scratch
From c as build
MAINTAINER me <me@example.com>
ENV OLD style value
LABEL k v
RUN a \

  b
EXPOSE 80/TCP 127.0.0.1:80:81
# check=skip=LegacyKeyValueFormat
ENV also old
ONBUILD FOO bar
