# escape=`
FROM a
ENV A=c:\dir `
    B=x`$y
RUN dir C:\ `
  && more
