FROM scratch
LABEL only=metadata
CMD ["x"]
#! --label cli=1 --label only=cli
